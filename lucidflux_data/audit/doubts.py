"""What earlier versions may have got wrong in a run and no hash can show: a sentence for each, from its tables.

run.json has the version that listed the candidates since 0.1.1; scores of a run without one may be of 0.1.0.
"""

from __future__ import annotations

import hashlib

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lucidflux_data.audit.decoders import describe_affected
from lucidflux_data.measures import firewall
from lucidflux_data.selection import run as runs
from lucidflux_data.shards import shard as shards
from lucidflux_data.storage import run_folder
from lucidflux_data.storage.folder import Folder

PARQUET_ROW = r"\.parquet#[0-9]+$"
ORIENTED = r"(^|,)orientation(,|$)"
AGAIN = "score them again into a new --out"


def find_doubts(folder: Folder) -> list[str]:
    """The sentences for a packed run and the runs that it draws from; [] where nothing speaks against them."""
    found = []
    for part in runs.parts(folder):
        about = runs.read_run(part.folder)
        if "version" not in about:
            found += _mixed_rows(part.folder)
        if "version" not in about and runs.MEASURED_AGAIN not in about:
            found += _turned_tiffs(part.folder)
        affected = describe_affected(part.folder)
        found += [affected] if affected else []
    return list(dict.fromkeys([*found, *_old_firewalls(folder)]))


def _mixed_rows(folder: Folder) -> list[str]:
    """Measures that were taken with decode threads: metrics and scorers, not scores/basic, history or the firewall.
    How many threads there were is in no file of the run."""
    named = [name for name in folder.folders("scores") if name not in ("basic", "history")]
    measures = [name for name in named if not name.startswith("firewall-")]
    uris = run_folder.read_inventory(folder, ["uri"])["uri"]
    rows = pc.sum(pc.match_substring_regex(uris, PARQUET_ROW)).as_py() or 0
    if not rows or not measures:
        return []
    return [
        f"{folder} has {rows} candidates in Parquet files and scores of {', '.join(measures)} by a version before "
        "0.1.1, which mixed up rows where it decoded on more than one thread (on a GPU it did, unless "
        f"workers.decode_threads said otherwise): {AGAIN}"
    ]


def _turned_tiffs(folder: Folder) -> list[str]:
    table = runs.read_basic(folder, ["format", "flags"])
    turned = pc.and_kleene(pc.equal(table["format"], "tiff"), pc.match_substring_regex(table["flags"], ORIENTED))
    count = pc.sum(turned).as_py() or 0
    if not count:
        return []
    return [f"{folder} has {count} TIFFs with an orientation, which versions before 0.1.1 turned wrongly: {AGAIN}"]


def _old_firewalls(folder: Folder) -> list[str]:
    """Suites that a version before 0.1.1 calls checked: its manifests do not name the measure."""
    card = shards.read_manifest(folder).get(firewall.FIELD, {})
    checked = {} if "measure" in card else card.get("checked", {})
    found = []
    for item, sha256 in checked.items():
        why = "by a version before 0.1.1, which took a result by the names of the suites, whatever they held then"
        if _is_of_no_image(folder, item, sha256):
            why = "whose fingerprint file is empty: against no image at all"
        found.append(f"{folder} was checked against {item}, {why}. Select and pack again, with its images there")
    return found


def _is_of_no_image(folder: Folder, item: str, sha256: str) -> bool:
    """By the file that the run keeps; where that is gone, by the sha256 that an empty one of this name has."""
    name = f"firewall/{hashlib.sha256(item.encode()).hexdigest()[:12]}.parquet"
    if folder.exists(name):
        data = folder.read(name)
        if hashlib.sha256(data).hexdigest() == sha256:
            empty: bool = pq.read_metadata(pa.BufferReader(data)).num_rows == 0
            return empty
    from lucidflux_data.measures.fingerprints import fingerprint_file  # loads numba

    suite = item.rstrip("/").rsplit("/", 1)[-1]
    return hashlib.sha256(fingerprint_file([], suite)).hexdigest() == sha256
