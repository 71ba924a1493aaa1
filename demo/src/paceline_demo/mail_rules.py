"""The promises about mail: each is measured on maildirs, queue ids and the recipients' diary."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

from paceline_demo import scenario as cast
from paceline_demo.facts import Promise, Run, absence, tell
from paceline_demo.scenario import Kind
from paceline_demo.truth import Held


def none_twice(run: Run) -> Promise:
    """Each step reaches each recipient at most once: by body, by job and by Message-ID."""
    faults: list[str] = []
    for owner, by_step in run.held.items():
        faults += [f"{owner}: step {n} ×{len(m)}" for n, m in by_step.items() if len(m) > 1]
    messages = [m for by_step in run.held.values() for each in by_step.values() for m in each]
    faults += _repeated("job", (m.job for m in messages))
    faults += _repeated("Message-ID", (m.message_id for m in messages))
    sent = [s for box in run.mailboxes for s in run.campaign(box)]
    faults += _repeated("submitted Message-ID", (s.message_id for s in sent if s.message_id))
    faults += _repeated("submitted job", (s.job for s in sent if s.job))
    for lead in run.of_kind(Kind.UNKNOWN, Kind.LATE):
        if run.reached(lead) > 1:
            faults.append(f"{lead.email}: submitted ×{run.reached(lead)}")
    return absence("each step at most once", faults, f"{len(messages)} messages in maildirs")


def none_missing(run: Run) -> Promise:
    """Each expected recipient holds each step it should; a job in doubt is named."""
    faults: list[str] = []
    seen = expected = 0
    for lead in run.scenario.expected:
        reached, wanted = run.reached(lead), run.wanted(lead)
        expected += wanted[-1]
        seen += min(reached, wanted[-1])
        steps = {n for n, messages in run.held[lead.email].items() if messages}
        whole = lead.kind in (Kind.UNKNOWN, Kind.LATE) or steps == set(range(1, len(steps) + 1))
        if reached < wanted[0] or not whole:
            faults.append(f"{lead.email} ({lead.kind}): {reached} of {wanted[-1]}")
    named = f"; named in doubt: {', '.join(sorted(run.in_doubt))}" if run.in_doubt else ""
    return Promise(
        "no step missing",
        expected,
        seen,
        not faults,
        tell(faults, f"maildirs and log of {len(run.leads)} recipients") + named,
    )


def none_superfluous(run: Run) -> Promise:
    """Nobody holds more steps than what the recipient did allows."""
    faults = [
        f"{lead.email} ({lead.kind}): {reached} of {run.wanted(lead)[-1]}"
        for lead in run.scenario.expected
        if (reached := run.reached(lead)) > run.wanted(lead)[-1]
    ]
    faults += [f"{owner}: a message without a step" for owner, by in run.held.items() if by.get(0)]
    strangers = run.held.keys() - run.leads.keys()
    faults += [f"{owner}: no lead of this run" for owner in sorted(strangers) if run.held[owner]]
    return absence("no step too many", faults, "maildirs and Postfix's log")


def none_after(name: str, *kinds: Kind) -> Callable[[Run], Promise]:
    """Return the rule: no submission begins after the recipients of `kinds` were over."""

    def rule(run: Run) -> Promise:
        leads = run.of_kind(*kinds)
        faults: list[str] = []
        over = 0
        for lead in leads:
            stopped = run.stopped_at(lead)
            if stopped is None:
                # With a job in doubt nothing may have reached the recipient to act upon.
                if run.reached(lead) or lead.email not in run.in_doubt:
                    faults.append(f"{lead.email}: nothing shows that the {lead.kind} happened")
                continue
            over += 1
            faults += [
                f"{lead.email}: submitted {(s.at - stopped).total_seconds():.3f} s after"
                for s in run.submitted[lead.email]
                if s.at > stopped
            ]
        return absence(
            name, faults, f"{over} of {len(leads)} recipients were over, none written to"
        )

    return rule


def suppressed_untouched(run: Run) -> Promise:
    """The suppressed address and the forbidden workspace's lead got nothing."""
    touched = [
        address
        for address in sorted(run.scenario.untouchable)
        if run.submitted[address] or any(run.held[address].values())
    ]
    return absence("suppressed addresses untouched", touched, "maildirs and Postfix's log")


def cadence_kept(run: Run) -> Promise:
    """No two submissions of a mailbox are closer than its cadence; `seen` counts breaches."""
    faults: list[str] = []
    least: dict[str, float] = {}
    for mailbox in run.mailboxes:
        times = [s.at for s in run.campaign(mailbox)]
        for before, after in pairwise(times):
            gap = after - before
            least[mailbox] = min(least.get(mailbox, float("inf")), gap.total_seconds())
            if gap < cast.CADENCE:
                faults.append(f"{mailbox}: {gap.total_seconds():.6f} s at {before:%H:%M:%S.%f}")
    shown = ", ".join(f"{mailbox} {gap:.6f} s" for mailbox, gap in sorted(least.items()))
    return absence(
        f"gaps never under the cadence of {cast.CADENCE.total_seconds():g} s",
        faults,
        f"least gaps: {shown}",
    )


def cadence_measurable(run: Run) -> Promise:
    """Every submission to the mail host has a queue id: none escapes the cadence's measure."""
    faults = [f"{sender} → {recipient}" for sender, recipient in run.truth.log.unqueued]
    return absence("every submission measured", faults, "Postfix's log, refusals included")


def all_mailboxes_used(run: Run) -> Promise:
    """Each connected mailbox carried its part of the campaign."""
    counts = {mailbox: len(run.campaign(mailbox)) for mailbox in run.mailboxes}
    used = sum(1 for count in counts.values() if count)
    shown = ", ".join(f"{mailbox} {count}" for mailbox, count in counts.items())
    return Promise("every mailbox sent", len(counts), used, used == len(counts), shown)


def one_conversation(run: Run) -> Promise:
    """A lead's second step answers its first, whoever sent it: References, In-Reply-To, subject."""
    faults: list[str] = []
    chains = 0
    for owner, first, second in _chains(run):
        chains += 1
        if second.references != (*first.references, first.message_id):
            faults.append(f"{owner}: References {' '.join(second.references) or 'absent'}")
        elif second.in_reply_to != first.message_id:
            faults.append(f"{owner}: In-Reply-To {second.in_reply_to}")
        elif second.subject.casefold() != f"re: {first.subject}".casefold():
            faults.append(f"{owner}: subject {second.subject!r}")
    return absence("one conversation per lead", faults, f"{chains} chains in maildirs")


def one_thread(run: Run) -> Promise:
    """At a provider, all that a mailbox wrote to a lead and got from it is one conversation."""
    threads: dict[tuple[str, str], set[str]] = defaultdict(set)
    seen = 0
    for lead in run.scenario.expected:
        for submission in run.submitted[lead.email]:
            if submission.thread_id is not None:
                threads[submission.mailbox, lead.email].add(submission.thread_id)
    for message in run.inbound:
        about = message.report_on or message.sender
        if message.thread_id is not None and (message.owner, about) in threads:
            seen += 1
            threads[message.owner, about].add(message.thread_id)
    faults = [
        f"{mailbox} and {email}: {len(found)} conversations"
        for (mailbox, email), found in sorted(threads.items())
        if len(found) > 1
    ]
    shown = f"{len(threads)} conversations at the providers, {seen} messages came into them"
    return absence("one thread per lead at a provider", faults, shown)


def sticky(run: Run) -> Promise:
    """Follow-ups leave from the mailbox of step 1; those of the paused one went on elsewhere."""
    faults: list[str] = []
    moved: Counter[str] = Counter()
    for owner, first, second in _chains(run):
        if second.sender != first.sender and first.sender == run.scenario.paused:
            moved[second.sender] += 1
        elif second.sender != first.sender:
            faults.append(f"{owner}: from {second.sender} after {first.sender}")
    shown = ", ".join(f"{mailbox} {count}" for mailbox, count in sorted(moved.items()))
    if not moved:
        faults.append(f"no follow-up of {run.scenario.paused} went on from another mailbox")
    told = f"from {run.scenario.paused}, paused, to {shown}"
    return Promise("follow-ups from their mailbox", 0, len(faults), not faults, tell(faults, told))


def _chains(run: Run) -> Iterator[tuple[str, Held, Held]]:
    """Yield who holds both steps, and the two."""
    for owner, by_step in sorted(run.held.items()):
        if by_step[1] and by_step[2]:
            yield owner, by_step[1][0], by_step[2][0]


def own_words(run: Run) -> Promise:
    """Each message is the lead's own: rendered with its variables, with a way out."""
    faults: list[str] = []
    for owner, by_step in sorted(run.held.items()):
        lead = run.leads.get(owner)
        for message in (m for each in by_step.values() for m in each):
            if lead is not None and cast.greeting(lead) not in message.text:
                faults.append(f"{owner}: not its own greeting")
            # Pigeonhole answers no mail with these headers: a vacation's script takes them off.
            stripped = lead is not None and lead.kind is Kind.VACATION
            if not (stripped or message.one_click_url):
                faults.append(f"{owner}: no one-click unsubscribe (RFC 8058)")
    return absence("own words and a way out in each message", faults, "maildirs")


def vacation_goes_on(run: Run) -> Promise:
    """A vacation reply came in, and the sequence went on to its end."""
    leads = run.of_kind(Kind.VACATION)
    faults: list[str] = []
    for lead in leads:
        answered = any(m.sender == lead.email and m.automatic for m in run.inbound)
        reached = run.reached(lead)
        if not answered and reached:
            faults.append(f"{lead.email}: no vacation reply in a sending mailbox")
        elif reached < run.wanted(lead)[0]:
            faults.append(f"{lead.email}: stopped after {reached}")
    return Promise(
        "vacation replies stop nothing",
        len(leads),
        len(leads) - len(faults),
        not faults,
        tell(faults, "maildirs of both sides"),
    )


def _repeated(what: str, values: Iterable[str | None]) -> list[str]:
    return [f"{what} {value} ×{n}" for value, n in Counter(values).items() if n > 1]
