"""The built-in manifests as JSON, from which clinvk reads them without loading PyYAML.

python docs/prepared_manifests.py --write    write it into the package
python docs/prepared_manifests.py --check    exit 1 if the package holds another one
"""

from __future__ import annotations

import sys

from clinvk.backend.catalog import read_manifest
from clinvk.backend.prepared import PREPARED, prepare
from clinvk.config.paths import built_in_manifests


def main(args: list[str]) -> int:
    files = sorted(built_in_manifests().glob("*.yaml"))
    made = prepare({file.stem: (file.read_bytes(), read_manifest(file)) for file in files})
    if args == ["--write"]:
        PREPARED.write_bytes(made)
        return 0
    if args != ["--check"]:
        sys.exit(__doc__)
    if not PREPARED.exists() or made != PREPARED.read_bytes():
        print(f"{PREPARED.name}: the manifests have changed", file=sys.stderr)
        print("  hint: python docs/prepared_manifests.py --write", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
