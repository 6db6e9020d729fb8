"""Fakes behind the same seams as the real things, for relabel's own tests and for yours.

ScriptedClient     answers in process, through a function of the request
ReplyServer        an OpenAI-compatible server on loopback that answers through a function of the request's body
BatchServer        one that takes files and batches, too
MisbehavingServer  one that fails, refuses and dawdles as it is told; `python -m relabel.testing` runs one
FakeHub            a Hugging Face hub that takes datasets and keeps them in memory
LabelledJudge      such a function: answers every kind of prompt from human labels, as well or as badly as you want
rlhn_reply         the text of a reply to the rlhn prompt
"""

from relabel.testing.batches import BatchServer
from relabel.testing.hub import FakeHub
from relabel.testing.labelled import LabelledJudge
from relabel.testing.misbehaving import FAULTS, MisbehavingServer
from relabel.testing.replies import rlhn_reply
from relabel.testing.scripted import ScriptedClient
from relabel.testing.server import Answer, Handler, ReplyServer, completion

__all__ = [
    "FAULTS",
    "Answer",
    "BatchServer",
    "FakeHub",
    "Handler",
    "LabelledJudge",
    "MisbehavingServer",
    "ReplyServer",
    "ScriptedClient",
    "completion",
    "rlhn_reply",
]
