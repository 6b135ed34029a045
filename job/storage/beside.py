"""What lies beside a place where there is nothing: most such places are typing errors."""

from difflib import get_close_matches

from job.errors import Missing
from job.storage.uris import open_store, parent_and_name


def nothing_at(uri: str) -> Missing:
    """Return the error for a place with nothing at it: it says what lies beside, for one or two requests."""
    parent, name = parent_and_name(uri.rstrip("/"))
    advice = "check the URI"
    if name:
        store = open_store(parent)
        if store.stat(name) is not None:
            return Missing(f"{uri} is an object, not a folder", advice="name the folder that it is in")
        # The place itself may be listed: a store's console marks empty folders with an object.
        beside = {child.strip("/") for child in store.children()} - {name}
        close = get_close_matches(name, beside) or sorted(beside)[:5]
        advice += f"; {parent} has {', '.join(close)}" if close else f"; there is nothing else at {parent}"
    return Missing(f"{uri}: there is nothing", advice=advice)
