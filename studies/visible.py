"""Text from elsewhere as it may be shown: no letter of a name, a path or an error moves, hides, colours or turns other text."""

import re

# Control characters, C1 included; line and paragraph separators; what turns the direction of writing; letters without a width,
# except the joiners that some scripts and emoji need; tags; halves of characters.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)


def visible(text: str, *, keep: str = "") -> str:
    r"""Return the text with an escape for each letter that can't be seen: `\x1b`, `\n`, `\u202e`.

    Args:
        text: Any text.
        keep: Such letters to leave as they are, such as a line break.
    """
    return _UNSEEN.sub(lambda found: found[0] if found[0] in keep else ascii(found[0])[1:-1], text)
