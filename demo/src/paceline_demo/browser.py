"""A person's browser as far as a sign-in needs one: pages, forms, redirects, cookies."""

from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Final, Self
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit, urlunsplit

import httpx

_HOPS: Final = 10


class NoSuchButton(Exception):
    """The page does not offer what was to be pressed; the text is the page's title and words."""


@dataclass
class Form:
    """One form: `fields` are what it sends as it stands, boxes only where they are ticked."""

    method: str
    action: str
    fields: list[tuple[str, str]] = field(default_factory=list)
    boxes: list[tuple[str, str]] = field(default_factory=list)
    buttons: list[tuple[str, str]] = field(default_factory=list)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.forms.append(Form(found.get("method", "get").lower(), found.get("action", "")))
        elif tag in ("input", "button") and self.forms and "name" in found:
            pair = (found["name"], found.get("value", ""))
            if tag == "button":
                self.forms[-1].buttons.append(pair)
            elif found.get("type") == "checkbox":
                self.forms[-1].boxes.append(pair)
                if "checked" in found:
                    self.forms[-1].fields.append(pair)
            else:
                self.forms[-1].fields.append(pair)

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.words.append(data.strip())


@dataclass(frozen=True)
class Page:
    """What the browser shows: where it is, with which status, its forms and its words."""

    url: str
    status: int
    forms: tuple[Form, ...]
    words: str
    body: bytes = field(repr=False)

    @classmethod
    def of(cls, answer: httpx.Response) -> Self:
        """Read an answer."""
        reader = _Reader()
        if "html" in answer.headers.get("content-type", ""):
            reader.feed(answer.text)
        words = " ".join(reader.words) or answer.text[:500]
        return cls(str(answer.url), answer.status_code, tuple(reader.forms), words, answer.content)

    @property
    def query(self) -> dict[str, str]:
        """What the address of the page says."""
        return dict(parse_qsl(urlsplit(self.url).query))


class Browser:
    """Keeps cookies and follows redirects, as far as to a page outside of `stop_at`.

    `stop_at`: an address whose redirect is not followed but shown as a page of its own, for
    who has nothing that listens there.
    """

    def __init__(self, stop_at: str | None = None) -> None:
        self._http = httpx.AsyncClient(timeout=60, trust_env=False)
        self._stop_at = stop_at

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def open(self, url: str) -> Page:
        """Go to an address."""
        return await self._follow(self._http.build_request("GET", url))

    async def press(
        self, page: Page, name: str, value: str | None = None, *, without: tuple[str, ...] = ()
    ) -> Page:
        """Press a button, the boxes with the values in `without` unticked before.

        Raise `NoSuchButton` when no form of the page has it.
        """
        for form in page.forms:
            for button in form.buttons:
                if button[0] == name and value in (None, button[1]):
                    return await self._submit(page, form, button, without)
        raise NoSuchButton(f"no {name} {value or ''} on {page.url}: {page.words}")

    async def _submit(
        self, page: Page, form: Form, button: tuple[str, str], without: tuple[str, ...]
    ) -> Page:
        fields = [pair for pair in form.fields if not (pair in form.boxes and pair[1] in without)]
        sent = [*fields, button]
        url = urljoin(page.url, form.action)
        if form.method == "get":
            # A form's own query goes away when it is sent (HTML, form submission).
            bare = urlunsplit(urlsplit(url)._replace(query=""))
            return await self._follow(self._http.build_request("GET", f"{bare}?{urlencode(sent)}"))
        data: dict[str, list[str]] = {}
        for key, each in sent:
            data.setdefault(key, []).append(each)
        return await self._follow(self._http.build_request("POST", url, data=data))

    async def _follow(self, request: httpx.Request) -> Page:
        for _ in range(_HOPS):
            answer = await self._http.send(request)
            if answer.next_request is None:
                return Page.of(answer)
            request = answer.next_request
            if self._stop_at is not None and str(request.url).startswith(self._stop_at):
                return Page(str(request.url), answer.status_code, (), "", b"")
        raise httpx.TooManyRedirects("too many redirects", request=request)
