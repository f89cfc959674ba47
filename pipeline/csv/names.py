"""The names of columns in a file that has a name several times."""

from collections.abc import Sequence


def unique_names(names: Sequence[str]) -> tuple[str, ...]:
    """Names of which the second `a` is `a.1`, as in pandas, or the next number that no other column has."""
    taken, seen, found = {*names}, set[str](), []
    counts = dict.fromkeys(names, 0)
    for name in names:
        called = name
        while called in seen or (called != name and called in taken):
            counts[name] += 1
            called = f"{name}.{counts[name]}"
        seen.add(called)
        found.append(called)
    return tuple(found)


def renamed_columns(names: Sequence[str]) -> tuple[str, ...]:
    """The new names of columns whose name occurs earlier."""
    return tuple(called for name, called in zip(names, unique_names(names), strict=True) if called != name)


def says_renamed(names: Sequence[str]) -> str:
    """What the console says about columns with new names, if there are any."""
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    return f", names that occur several times: {', '.join(names[:5])}{more}" if names else ""
