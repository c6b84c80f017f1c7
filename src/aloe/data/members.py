"""Which members of a WebDataset shard are samples: the one rule of keys, image members and what is left out.

A member's key is its name without its fields: `000.jpg`, `000.json` and `000.depth.png` share the key `000`. A part that
begins with a digit is no field but belongs to the key, so `IMG_22.01.jpg` and `IMG_22.02.jpg` are two samples. Of the
images of one key the plain one is taken (`.jpg`, `.jpeg`, `.png`, `.webp`, then the other formats), or the one whose
fields the user named (`#rgb.png`); the others are counted and named.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from aloe.core.printable import shown
from aloe.data.decode import EXTENSIONS, DataError, is_image_name

_ORDER = (".jpg", ".jpeg", ".png", ".webp", *EXTENSIONS)
_NAMED = 3  # of what was left out for one reason


def normal(name: str) -> str:
    """A member's name as an archive's reader has it: forward slashes, without `./`."""
    return "/".join(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))


def split_key(name: str) -> tuple[str, str]:
    """(key, fields): `a/000.depth.png` -> (`a/000`, `depth.png`); `IMG_22.01.jpg` -> (`IMG_22.01`, `jpg`)."""
    folder, slash, base = name.rpartition("/")
    stem, *parts = base.split(".")
    while len(parts) > 1 and not (parts[0][:1].isalpha() or parts[0].startswith("_")):
        stem = f"{stem}.{parts.pop(0)}"
    return folder + slash + stem, ".".join(parts)


class Members:
    """The image members of a shard that are samples; and, in words, those that are not.

    Args:
        where: the shard, as sentences call it.
        wanted: fields of the member to take, such as `rgb.png`; "" for the plain one.
    """

    def __init__(self, where: str, wanted: str = "") -> None:
        self.where, self.wanted = where, wanted.lower().removeprefix(".")
        self._left: dict[str, list[str]] = defaultdict(list)
        self._counts: dict[str, int] = defaultdict(int)
        self._companions: set[str] = set()  # fields that were seen beside a plain image
        self._sets: set[frozenset[str]] = set()  # of fields, where a key has several images and none is plain

    def pick(self, names: Sequence[str]) -> set[int]:
        """Indices of the samples among `names`, which hold every key whole.

        Raises:
            DataError: keys have several images and none of them is plain, so that one must be chosen.
        """
        groups: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        for i, name in enumerate(names):
            key, fields = split_key(name)
            groups[key][fields.lower()].append(i)
        images = {}
        for key, group in groups.items():
            members = {fields: places for fields, places in group.items() if is_image_name(names[places[0]])}
            if members:
                images[key] = members
            plain = [fields for fields in members if "." not in fields]
            if plain and not self.wanted:
                self._companions |= members.keys() - set(plain)
        picked: set[int] = set()
        for key, members in images.items():
            for places in self._of_key(key, members, any("." not in f for f in groups[key])):
                for other in places[:-1]:
                    self.leave(names[other], "another member of the same name comes after it")
                picked.add(places[-1])
            for places in members.values():
                if places[-1] not in picked:
                    self._leave_beside(names[places[-1]], members)
        return picked

    def leave(self, name: str, reason: str) -> None:
        """Count and name a member that is no sample."""
        self._counts[reason] += 1
        if len(self._left[reason]) < _NAMED:
            self._left[reason].append(shown(name))

    def left_out(self) -> list[str]:
        """One sentence for every reason; the account is empty afterwards."""
        words = []
        for reason, some in self._left.items():
            count, more = self._counts[reason], ", ..." if self._counts[reason] > len(some) else ""
            words.append(f"{self.where}: {count} image{'s' * (count > 1)} left out, {reason}: {', '.join(some)}{more}")
        self._left.clear()
        self._counts.clear()
        return words

    def _of_key(self, key: str, members: dict[str, list[int]], has_plain: bool) -> list[list[int]]:
        """The places of the samples of one key."""
        if self.wanted:
            return [members[self.wanted]] if self.wanted in members else []
        plain = [fields for fields in members if "." not in fields]
        if plain:
            return [members[min(plain, key=_rank)]]
        alone = [fields for fields in members if fields not in self._companions]
        if len(alone) > 1:
            one, other = sorted(alone, key=_rank)[:2]
            fields = frozenset(alone)
            if has_plain or fields in self._sets:
                raise DataError(
                    f"{self.where}: the sample {shown(key)} has the images .{one} and .{other}; choose one by adding"
                    f" #{one} or #{other} to the address of the shards."
                )
            self._sets.add(fields)
        return [members[fields] for fields in alone]

    def _leave_beside(self, name: str, members: dict[str, list[int]]) -> None:
        fields = split_key(name)[1].lower()
        if self.wanted:
            if self.wanted not in members:
                self.leave(name, f"its sample has no .{self.wanted}")
        elif any("." not in f for f in members):
            self.leave(name, f"beside a plain image of the same key (#{fields} after the address takes these instead)")
        else:
            self.leave(name, f"its sample has no plain image, as those of other .{fields} have")


def _rank(fields: str) -> tuple[int, str]:
    extension = f".{fields.rpartition('.')[2]}"
    return (_ORDER.index(extension) if extension in _ORDER else len(_ORDER)), fields
