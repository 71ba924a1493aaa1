"""How instances share mailboxes: each is somebody's, nobody holds more than a share."""

from hypothesis import given
from hypothesis import strategies as st

from paceline_reply.domain.share import Key, Seen, plan

LEASE_S = 60.0


def seen(whose: dict[int, str], left_s: float = LEASE_S) -> list[Seen]:
    return [Seen((1, box), one, left_s) for box, one in whose.items()]  # type: ignore[arg-type]


def test_alone_an_instance_takes_everything() -> None:
    found = plan(seen(dict.fromkeys(range(5), "nobodys")), 1, LEASE_S)

    assert len(found.take) == 5
    assert found.leave == ()


def test_what_another_reads_is_left_to_it() -> None:
    found = plan(seen({1: "others", 2: "nobodys"}), 2, LEASE_S)

    assert found.take == ((1, 2),)


def test_a_second_instance_gets_its_share_from_the_first() -> None:
    found = plan(seen(dict.fromkeys(range(5), "mine")), 2, LEASE_S)

    assert len(found.keep) == 3
    assert len(found.leave) == 2
    assert found.take == ()


def test_a_lease_is_lengthened_in_its_second_half_only() -> None:
    fresh = plan(seen({1: "mine"}, LEASE_S * 0.9), 1, LEASE_S)
    used = plan(seen({1: "mine"}, LEASE_S * 0.4), 1, LEASE_S)

    assert (fresh.take, used.take) == ((), ((1, 1),))
    assert fresh.keep == used.keep == {(1, 1)}


def test_a_lease_that_is_over_is_no_reason_to_read() -> None:
    found = plan(seen({1: "mine"}, -0.1), 1, LEASE_S)

    assert found.keep == frozenset()
    assert found.take == ((1, 1),)


@given(st.integers(0, 60), st.integers(1, 7), st.data())
def test_after_some_rounds_each_mailbox_is_read_by_exactly_one(
    count: int, instances: int, data: st.DataObject
) -> None:
    boxes: list[Key] = [(1 + number % 3, number) for number in range(count)]
    owner: dict[Key, int | None] = {
        box: data.draw(st.one_of(st.none(), st.integers(0, instances - 1))) for box in boxes
    }
    for turn in range(3 * instances):
        me = turn % instances
        looked = [
            Seen(box, "mine" if who == me else "nobodys" if who is None else "others", LEASE_S)
            for box, who in owner.items()
        ]
        found = plan(looked, instances, LEASE_S)
        assert all(owner[box] == me for box in (*found.keep, *found.leave))
        assert all(owner[box] is None for box in found.take)
        owner |= dict.fromkeys(found.leave)
        owner |= dict.fromkeys(found.take, me)

    assert None not in owner.values()
    held = [sum(who == one for who in owner.values()) for one in range(instances)]
    assert max(held, default=0) <= -(-count // instances)
