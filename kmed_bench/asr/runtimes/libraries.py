"""Optional libraries, and the error that says how to install them."""

from typing import Any

from kmed_bench.core.errors import KmedError


def import_transformers() -> Any:
    """Return the transformers module.

    Raises
    ------
    KmedError
        When it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise missing_library("transformers", "The Hugging Face format", error) from None
    # Its progress bars for loading and writing would disturb ours.
    transformers.utils.logging.disable_progress_bar()
    return transformers


def missing_library(library: str, purpose: str, error: ImportError, *, extra: str = "export") -> KmedError:
    """Return an error that names the extra to install."""
    return KmedError(f"{purpose} needs {library} ({error}); install it with `pip install 'kmed-bench[{extra}]'`.")
