"""Downloads from Kaggle and from web addresses, one process at a time."""

import http.client
import shutil
import urllib.request
from pathlib import Path

from filelock import FileLock

from bloodcell.errors import InputError, of_disk, reason
from bloodcell.files import beside

_SECONDS = 60  # without an answer, after which a download fails


def download_kaggle(name: str, handle: str, advice: str = "") -> Path:
    """Downloads a Kaggle data set; files in the cache of kagglehub are not downloaded again.

    Args:
        name: value of `data.root`, for error messages.
        handle: OWNER/DATASET/versions/N: with a fixed version, kagglehub needs the network only
            for the first download.
        advice: end of the error message.

    Returns:
        The folder with the unpacked archive.

    Raises:
        InputError: if the download fails.
    """
    import kagglehub  # slow to import and rarely needed

    cache = Path(kagglehub.config.get_cache_folder())
    cache.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(cache / "bloodcell.lock"):  # only one process downloads
            return Path(kagglehub.dataset_download(handle))
    except Exception as error:  # kagglehub does not wrap errors of its HTTP library
        _pass_on(error)
        page = "/".join(handle.split("/")[:2])
        raise InputError(
            f"data.root='{name}' could not be downloaded ({reason(error)}). Without a network, "
            f"download kaggle.com/datasets/{page} elsewhere and set data.root to the .zip{advice}."
        ) from error


def download_file(name: str, address: str, path: Path) -> None:
    """Downloads a file, unless it exists; it appears at `path` only when it is complete.

    Args:
        name: value of `data.root`, for error messages.
        address: web address of the file.
        path: where to write it.

    Raises:
        InputError: if the download fails.
    """
    if path.is_file():  # the user may have put it there
        return
    try:
        with (
            urllib.request.urlopen(address, timeout=_SECONDS) as answer,
            beside(path) as partial,
            partial.open("wb") as file,
        ):
            shutil.copyfileobj(answer, file)
            size = answer.headers["Content-Length"]
            if size and file.tell() != int(size):  # a connection that broke raises nothing
                raise OSError(f"only {file.tell():,} of {int(size):,} bytes arrived")
    except (OSError, http.client.HTTPException) as error:  # errors of urllib are OSErrors
        _pass_on(error)
        raise InputError(
            f"data.root='{name}' could not be downloaded ({reason(error)}). Without a network, "
            f"download {address} elsewhere, save it as {path}, and repeat the command."
        ) from error


def _pass_on(error: Exception) -> None:
    """Raises an error of the disk, which is not one of the network."""
    if isinstance(error, OSError) and of_disk(error, ""):
        raise error
