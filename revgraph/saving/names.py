"""Names of inputs and outputs in the names of files."""

import re

_ILLEGAL = re.compile(r'[\x00-\x1f<>:"/\\|?*%]|[. ]$')

_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\.|$)")
"""The names of Windows's devices, which no file may have, whatever its ending."""


def file_name(name: str) -> str:
    """A name as part of the name of a file, on every system.

    What Windows does not allow is written as `%` and two digits, as in URLs, so different names stay different:
    `"a:b"` becomes `"a%3Ab"`. `urllib.parse.unquote` gives the name back.
    """
    name = _ILLEGAL.sub(lambda found: f"%{ord(found[0]):02X}", name)
    return f"%{ord(name[0]):02X}{name[1:]}" if _RESERVED.match(name) else name
