"""What the sender's `/internal/preview` answers and the gateway shows."""

from pydantic import BaseModel


class HeaderShown(BaseModel):
    """A header field as it is written, unfolded."""

    name: str
    value: str


class AttachmentShown(BaseModel):
    """A file that goes along; `content_id` where the HTML shows it inline."""

    filename: str
    content_type: str
    size: int
    content_id: str | None


class Preview(BaseModel):
    """A message as it leaves; a missing variable stands there as `[name]` and in `missing`.

    `size` counts the octets of the whole message; `message` is that (base64),
    when asked for with `raw`. The Date is the slot's, or now.
    """

    from_email: str
    to_email: str
    envelope_from: str
    subject: str
    text: str | None
    html: str | None
    headers: list[HeaderShown]
    attachments: list[AttachmentShown]
    size: int
    variant: str | None
    missing: list[str]
    message: str | None
