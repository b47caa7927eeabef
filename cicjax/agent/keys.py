"""Keys of an agent's home: HOME/keys.json, where a key is a digest, and the name of the source that it speaks
for. What a source may stands in the log."""

import hashlib
import secrets
from pathlib import Path

from cicjax.errors import Corrupted
from cicjax.files.whole import read_json, write_json

FILE = "keys.json"
PREFIX = "cicjax-"


def read_keys(home: Path) -> dict[str, str]:
    """HOME/keys.json: SHA-256 of a key -> source; empty where there is none. Raises Corrupted for another
    content."""
    path = home / FILE
    if not path.exists():
        return {}
    keys = read_json(path)
    if not isinstance(keys, dict) or not all(isinstance(name, str) for name in keys.values()):
        raise Corrupted(f"{path}: not what was written; remove it and make the keys anew")
    return keys


def make_key(home: Path, source: str) -> str:
    """A new key of a source, of which the file keeps the digest alone."""
    keys, key = read_keys(home), PREFIX + secrets.token_urlsafe(24)
    write_json(home / FILE, keys | {digest_of(key): source})
    return key


def digest_of(key: str) -> str:
    """What a key is kept as."""
    return hashlib.sha256(key.encode()).hexdigest()
