"""Models on the Hugging Face hub: ``hf://user/name`` and ``hf://user/name@revision``.

Only the two files of a model are fetched, and neither is ever unpickled.
"""

import functools
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from hfgd.errors import HfgdError
from hfgd.progress import say

FILES = ["model.safetensors", "config.json"]
NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
LOGIN = "log in with 'hf auth login', or set HF_TOKEN"


class Address(NamedTuple):
    """What an ``hf://`` address says; ``revision``: a branch, a tag or a commit; None: the newest."""

    name: str
    revision: str | None

    def __str__(self) -> str:
        return f"hf://{self.name}" + (f"@{self.revision}" if self.revision else "")


def is_hub(path: str | Path) -> bool:
    """Whether a path is an ``hf://`` address; also one that has gone through a Path."""
    return str(path).startswith(("hf:/", "hf:\\"))


def parse(path: str | Path) -> Address:
    """The parts of an address; raises HfgdError for a malformed one."""
    text = str(path).replace("\\", "/")  # a Path of Windows
    name, at, revision = text.removeprefix("hf:").lstrip("/").partition("@")
    if not NAME.fullmatch(name) or (at and not revision):
        raise HfgdError(f"'{path}' is no hf://user/name or hf://user/name@revision.")
    return Address(name, revision or None)


def folder_for(path: str | Path) -> Path:
    """Where to put what is made of a model: its own folder; ``runs/user--name`` for an address."""
    if not is_hub(path):
        return Path(path)
    return Path("runs") / parse(path).name.replace("/", "--")


def fetch(path: str | Path) -> Path:
    """The local folder of a model on the hub: from its cache, or downloaded once.

    Within a process an address stays the same model, whatever is pushed meanwhile. Raises HfgdError
    where there is none, where it may not be read, and without a connection where it is not cached.
    """
    return _fetch(parse(path))


@functools.cache
def _fetch(address: Address) -> Path:
    from huggingface_hub import snapshot_download

    _quiet_unless_watched()
    say(f"{address}: from the local cache, or downloaded once")
    try:
        folder = snapshot_download(address.name, revision=address.revision, allow_patterns=FILES)
    except Exception as error:
        raise _explain(error, address) from error
    for file in FILES:
        if not (Path(folder) / file).is_file():
            raise HfgdError(f"'{address}' holds no hfgd model: there is no {file} in it.")
    return Path(folder)


def push(files: Mapping[str, Path | bytes], name: str, private: bool = False) -> Address:
    """Put files, by their names there, into the repository ``user/name`` as one commit.

    Makes the repository where there is none. ``private``: raises HfgdError where it is a public one,
    before anything is sent. Returns the address of the commit.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    if not NAME.fullmatch(name):
        raise HfgdError(f"'{name}' is no name of a repository; give user/name.")
    _quiet_unless_watched()
    operations = [
        CommitOperationAdd(path_in_repo=file, path_or_fileobj=content)
        for file, content in files.items()
    ]
    api = HfApi()
    try:
        api.create_repo(name, private=private or None, exist_ok=True)
        if private and not api.model_info(name).private:
            raise HfgdError(
                f"'{name}' exists and is public, so nothing was sent; make it private on its page, or "
                "choose another name."
            )
        done = api.create_commit(name, operations, commit_message="hfgd push")
    except HfgdError:
        raise
    except Exception as error:
        raise _explain(error, Address(name, None), writing=True) from error
    _fetch.cache_clear()
    return Address(name, done.oid)


def _quiet_unless_watched() -> None:
    """The hub's own bars on a terminal only; its warnings are told in our sentences."""
    import logging

    from huggingface_hub.utils.tqdm import disable_progress_bars

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    if not sys.stderr.isatty():
        disable_progress_bars()


def _explain(error: Exception, address: Address, writing: bool = False) -> HfgdError:
    """One sentence for what the hub or the way to it raised."""
    from huggingface_hub import errors, get_token

    name = address.name
    status = _status(error)
    if isinstance(error, errors.GatedRepoError):
        return HfgdError(
            f"'{name}' is gated: accept its terms on its page on the hub, then {LOGIN}."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return HfgdError(f"'{name}' has no revision '{address.revision}'; look at its page.")
    if isinstance(error, errors.HFValidationError):
        return HfgdError(f"the hub allows no repository named '{name}'.")
    if status in (401, 403, 404):
        if get_token() is None:
            what = "pushing needs an account" if writing else f"'{address}' is missing or private"
            return HfgdError(f"{what}, and you are not logged in to the hub; {LOGIN}.")
        if writing:
            return HfgdError(
                f"your account or token may not write to '{name}'; check the name and the token."
            )
        return HfgdError(
            f"'{address}' is missing, or private and not open to your account; check the name, or "
            "ask its owner."
        )
    if status is not None:
        return HfgdError(f"the hub refused '{address}' with error {status}; try again later.")
    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}".rstrip(": ")
    if writing:
        return HfgdError(
            f"'{name}' could not be pushed ({reason}); look to the connection and push again."
        )
    if isinstance(error, errors.LocalEntryNotFoundError):
        reason = "no connection to the hub"
    return HfgdError(
        f"'{address}' is not in the local cache and could not be downloaded ({reason}); connect "
        "once, or give a local folder."
    )


def _status(error: BaseException | None) -> int | None:
    """The HTTP status behind an error, where a server gave an answer."""
    while error is not None:
        response = getattr(error, "response", None)
        if response is not None:
            return int(response.status_code)
        error = error.__cause__
    return None
