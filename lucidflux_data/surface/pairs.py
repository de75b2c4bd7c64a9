"""`Pairs`: a folder of pairs that `synthesize` made, for notebooks and for anyone's trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lucidflux_data.errors import LucidFluxError, needs_extra
from lucidflux_data.escapes import show
from lucidflux_data.pairs.card import PairsCard, make_card
from lucidflux_data.publish.card import make_readme
from lucidflux_data.publish.facts import gather_facts, last_part
from lucidflux_data.surface.shown import render, small_picture
from lucidflux_data.surface.stored import StoredPairs

if TYPE_CHECKING:
    from lucidflux_data.surface.torch_pairs import PairsDataset

SHOWN, SHOWN_PX = 3, 144


class Card(str):
    """Markdown, which a notebook shows as it is read."""

    def _repr_markdown_(self) -> str:
        return str(self)


class Pairs(StoredPairs):
    """A folder of pairs: `Pairs("pairs")`, or a url of one. `pairs[i]` is a Pair with `key`, `hq` and `lq` (uint8 RGB).

    Raises InputError where the folder holds no pairs, VerificationError where it was not made to the end, or was left
    while its shards changed. It can be sent between processes, and reads what it needs.

    >>> stored = Pairs("pairs")
    >>> stored[0].hq.shape[0] == 4 * stored[0].lq.shape[0]
    True
    """

    def __repr__(self) -> str:
        return f"Pairs({str(self.folder)!r}: {len(self):,} pairs)"

    def dataset(self) -> PairsDataset:
        """A torch Dataset of these pairs, with what RealESRGANPairs gives: {"hq": uint8 3xSxS RGB, "lq": uint8 3xsxs
        RGB, "key": str, "variant": int}. Of thousands of shards in a shuffled order, `webdataset` reads faster.
        ConfigError where torch is not installed."""
        with needs_extra("model"):
            from lucidflux_data.surface.torch_pairs import PairsDataset
        return PairsDataset(self)

    def webdataset(self, shuffle: int = 0, seed: int = 0) -> Any:
        """A webdataset.DataPipeline of these pairs, with the items of `dataset()`: shards are split by node, then by
        worker of a DataLoader, and read one after the other.

        `shuffle`: pairs in memory that the next one is drawn from, and the order of the shards; 0 keeps both. `seed`:
        of the draws. Raises ConfigError where torch is not installed and, once it runs, where there are fewer shards
        than readers: some would get nothing.
        """
        with needs_extra("model"):
            from lucidflux_data.surface.web import make_pipeline
        return make_pipeline(self, shuffle, seed)

    def info(self, limit: int | None = 1000) -> PairsCard:
        """What `lucidflux-data info` tells: counts, settings, licences, benchmarks, and every drawn parameter against
        its preset. `limit`: pairs whose parameters are looked at; None: all."""
        return make_card(self.folder, limit)

    def card(self, name: str | None = None, repository: str | None = None) -> Card:
        """The card that `lucidflux-data card` writes into README.md; nothing is written here. `name`: of the set, its
        folder's by default; `repository`: OWNER/NAME on the Hugging Face Hub. Raises ConfigError as the command does.
        """
        facts = gather_facts(self.folder)
        return Card(make_readme(facts, show(name or last_part(str(self.folder))), repository).decode())

    def _repr_html_(self) -> str:
        title = str(self.folder).rsplit("/", 1)[-1]
        figures, line = [], f"{len(self):,} pairs: {self.run['label']}"
        try:
            for number in range(min(SHOWN, len(self))):
                pair = self[number * len(self) // SHOWN if len(self) >= SHOWN else number]
                pictures = {
                    name: small_picture(pixels, SHOWN_PX) for name, pixels in (("lq", pair.lq), ("hq", pair.hq))
                }
                figures.append({"name": pair.key, **pictures})
        except LucidFluxError as error:
            line += f". {error}"
        return render("pairs.html.j2", title=title, line=line, figures=figures)
