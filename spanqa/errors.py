"""The exceptions of the core, and the base of every other package's tree.

* SpanqaError: anything a user can mend; commands print it as one line and exit with 2
  x RequestError: what ends one request
    - InputError: a question, context or setting of it
    - OverloadError: a server that has more to do than it takes on; asking again helps
  x DataError: a dataset file
    - DamagedFileError: what ends its reading, not one question of it
  x TokenizerError: a tokenizer's files
  x SettingsError: settings that contradict each other or the model
  x LogitsError: a network's output that does not fit its windows, or is not finite
"""


class SpanqaError(Exception):
    """An error whose message says what was got, what is allowed and what to do next."""


class RequestError(SpanqaError):
    """What ends one request.

    Args:
        message: The one line.
        reason: Under which it is counted; by default its class's.
    """

    reason = "internal"

    def __init__(self, message: str, *, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason or self.reason


class InputError(RequestError):
    """A question, context or option of one request is not acceptable."""

    reason = "bad_input"


class DataError(SpanqaError):
    """A dataset file is not what its format asks for.

    Args:
        message: The one line.
        place: The file and the place in it, where that is known; the message names them too.
        question_id: The id of the question that has the defect, where it is of one and that one has an id.
    """

    def __init__(self, message: str, *, place: str = "", question_id: str = "") -> None:
        super().__init__(message)
        self.place, self.question_id = place, question_id


class DamagedFileError(DataError):
    """A dataset file cannot be read, or not to its end: what follows in it is unknown."""


class TokenizerError(SpanqaError):
    """A tokenizer cannot be loaded, or lacks what span extraction needs."""


class SettingsError(SpanqaError):
    """Settings contradict each other or the model they are used with."""


class LogitsError(SpanqaError):
    """A network's logits do not fit the windows they were computed from."""


class OverloadError(RequestError):
    """A server has more to do than it takes on: asking again later helps."""

    reason = "queue_full"
