"""What Graph answers, as far as it is read (learn.microsoft.com/graph/api/resources/message)."""

from datetime import datetime
from typing import Final

import msgspec

# PS_INTERNET_HEADERS ([MS-OXPROPS] 1.3.2): a header of one's own is a named property as well.
JOB_PROPERTY: Final = "String {00020386-0000-0000-C000-000000000046} Name X-Paceline-Job"


class Address(msgspec.Struct, frozen=True):
    """An `emailAddress`."""

    address: str = ""


class Recipient(msgspec.Struct, frozen=True, rename="camel"):
    """A `recipient`."""

    email_address: Address = Address()


class Named(msgspec.Struct, frozen=True):
    """A header by its name, or an extended property by its id."""

    name: str = ""
    value: str = ""
    id: str = ""


class Message(msgspec.Struct, frozen=True, rename="camel"):
    """A message resource, as far as `$select` asked for it."""

    id: str
    internet_message_id: str | None = None
    conversation_id: str | None = None
    parent_folder_id: str | None = None
    is_draft: bool | None = None
    subject: str | None = None
    sent_date_time: datetime | None = None
    to_recipients: tuple[Recipient, ...] | None = None
    cc_recipients: tuple[Recipient, ...] | None = None
    bcc_recipients: tuple[Recipient, ...] | None = None
    internet_message_headers: tuple[Named, ...] | None = None
    single_value_extended_properties: tuple[Named, ...] | None = None

    @property
    def addresses(self) -> set[str]:
        """Everyone it goes to, in lower case."""
        some = (self.to_recipients, self.cc_recipients, self.bcc_recipients)
        return {one.email_address.address.lower() for group in some for one in group or ()}

    @property
    def has_no_recipients(self) -> bool:
        """Whether Graph says so, which is more than not saying who they are."""
        return self.to_recipients == self.cc_recipients == self.bcc_recipients == ()

    def carries(self, job_token: str) -> bool:
        """Tell whether its X-Paceline-Job is this one."""
        headers = self.internet_message_headers or ()
        if any(
            one.name.lower() == "x-paceline-job" and one.value.strip() == job_token
            for one in headers
        ):
            return True
        properties = self.single_value_extended_properties or ()
        return any(
            one.id.lower() == JOB_PROPERTY.lower() and one.value == job_token for one in properties
        )


class Page(msgspec.Struct, frozen=True):
    """A page of a listing, and where the next one is."""

    value: tuple[Message, ...]
    next_link: str | None = msgspec.field(name="@odata.nextLink", default=None)


class Folder(msgspec.Struct, frozen=True):
    """A mail folder."""

    id: str


class Error(msgspec.Struct, frozen=True, rename="camel"):
    """Graph's own code and words."""

    code: str = ""
    message: str = ""


class Failure(msgspec.Struct, frozen=True):
    """The body of a refusal (learn.microsoft.com/graph/errors)."""

    error: Error = Error()
