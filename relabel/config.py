"""The settings of a run, validated. Unknown keys are refused with the nearest valid one; nothing is guessed."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from relabel.settings import BatchClientSettings, CardSettings, ClientSettings, Settings, VLLMClientSettings


class InputSettings(Settings):
    """Where the training set lies. `subset` names the source dataset of records that do not say theirs."""

    path: str
    format: str = "auto"
    subset: str = ""
    limit: int | None = Field(None, ge=1)
    split: str | None = None
    name: str | None = None
    revision: str | None = None
    run: str | None = None


_OURS = {"model", "messages", "n", "stream", "max_tokens", "seed", "logprobs", "top_logprobs", "response_format"}
"""Parts of a request that are set in other ways."""


class LLMJudgeSettings(Settings):
    """A judge that asks a model. Sampling values shape the reply and are part of each request's key.

    `structured: false` sends no `response_format`: the prompt's words alone ask for the form of the reply.
    Confidence: `top_logprobs` asks for the probabilities of so many tokens in each place, `samples` for as many replies
    where the server does not give these. For rankings: in how many `orders` the list is shown, what of each passage is
    shown, and `above` which of several positives a candidate must stand. `suspect_positive` says what a positive
    without an answer is worth as a yardstick.
    """

    prompt: str
    model: str
    client: str
    model_revision: str | None = None
    temperature: float | None = Field(0.0, ge=0)
    top_p: float | None = Field(None, gt=0, le=1)
    max_tokens: int | None = Field(4096, ge=1)
    seed: int | None = Field(None, ge=0, lt=1 << 63)
    extra_body: dict[str, Any] = {}
    retries: int = Field(1, ge=0, le=100)
    retry_temperature: float | None = Field(0.5, ge=0)
    retry_max_tokens: int | None = Field(None, ge=1)
    max_candidates: int = Field(30, ge=1)
    context: int = Field(128_000, ge=256)
    structured: bool = True
    samples: int = Field(1, ge=1, le=100)
    top_logprobs: int = Field(0, ge=0, le=20)
    orders: int = Field(1, ge=1, le=100)
    show: Literal["snippets", "passages"] = "snippets"
    above: Literal["best", "any", "all"] = "best"
    suspect_positive: Literal["rank", "undecided"] = "rank"

    @model_validator(mode="after")
    def _sound(self) -> LLMJudgeSettings:
        if max(self.max_tokens or 0, self.retry_max_tokens or 0) >= self.context:
            raise ValueError(f"max_tokens leaves no room for a prompt in a context of {self.context} tokens")
        if fixed := sorted(_OURS & self.extra_body.keys()):
            raise ValueError(f"extra_body may not set {', '.join(fixed)}")
        if self.samples > 1 and self.temperature == 0:
            raise ValueError("samples at temperature 0 are all alike; set a temperature above 0")
        return self

    @field_validator("extra_body", mode="before")
    @classmethod
    def _as_json(cls, given: Any) -> Any:
        """With keys as JSON has them (YAML reads `{1234: -100}` with a number), and nothing that JSON cannot hold."""
        try:
            return orjson.loads(orjson.dumps(given, option=orjson.OPT_NON_STR_KEYS))
        except TypeError as fault:
            raise ValueError(f"cannot be sent as JSON: {fault}") from None


_WORDS = ("exact-duplicate", "near-duplicate", "lexical", "mined")
_MODELS = ("embedding", "cross-encoder")

_THRESHOLDS = {"score": 0.95, "share": 0.95, "margin": 0.05}
"""The usual thresholds, by rule: those of NV-Retriever, and for scores from 0 to 1."""


class ScreenSettings(Settings):
    """A judge that needs no LLM. By `rule` a candidate is too close (relabel.screens.rules): `score` holds it against
    the threshold itself; `share`, `margin` and `spread` against the closest positive.
    """

    screen: str
    rule: Literal["score", "share", "margin", "spread"] | None = None
    threshold: float | None = None

    @property
    def by(self) -> str:
        """The rule: a positive-aware one unless the screen compares with the positives already."""
        return self.rule or ("score" if self._compares_with_positives else "share")

    @property
    def limit(self) -> float:
        """The threshold, or the rule's usual one."""
        return _THRESHOLDS[self.by] if self.threshold is None else self.threshold

    @property
    def _compares_with_positives(self) -> bool:
        return False

    @property
    def _within_one(self) -> bool:
        """Whether scores lie between 0 and 1."""
        return True

    @model_validator(mode="after")
    def _has_threshold(self) -> Self:
        if self.threshold is None and (self.by == "spread" or (self.by == "score" and not self._within_one)):
            raise ValueError(f"the rule {self.by!r} of the screen {self.screen!r} has no usual threshold: name one")
        if self.by != "score" and self.threshold is not None and self.threshold < 0:
            raise ValueError(f"threshold is {self.threshold:g}; for the rule {self.by!r} it is 0 or more")
        return self


class WordScreenSettings(ScreenSettings):
    """A screen of words, or of the scores that the mining left."""

    screen: Literal["exact-duplicate", "near-duplicate", "lexical", "mined"]

    @property
    def _compares_with_positives(self) -> bool:
        return self.screen in ("exact-duplicate", "near-duplicate")

    @property
    def _within_one(self) -> bool:
        return self.screen != "mined"

    @field_validator("screen", mode="before")
    @classmethod
    def _known(cls, given: Any) -> Any:
        if given not in _WORDS:
            raise ValueError(f"no screen {given!r}; expected {', '.join((*_WORDS, *_MODELS))}")
        return given

    @model_validator(mode="after")
    def _by_score(self) -> Self:
        if self._compares_with_positives and self.by != "score":
            raise ValueError(f"the screen {self.screen!r} compares with the positives already: its rule is 'score'")
        return self


class ModelScreenSettings(ScreenSettings):
    """A screen that asks a model in this process, any of sentence-transformers, a name or a folder. `to` says what
    closeness of embeddings is asked for, `cache` where vectors are kept (the run's folder unless named).
    """

    screen: Literal["embedding", "cross-encoder"]
    model: str = Field(min_length=1)
    to: Literal["query", "positives"] = "query"
    revision: str | None = None
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    device: str | None = None
    batch: int = Field(16, ge=1)
    cache: str | None = None

    @property
    def _compares_with_positives(self) -> bool:
        return self.screen == "embedding" and self.to == "positives"

    @property
    def _within_one(self) -> bool:
        return self.screen == "embedding"

    @model_validator(mode="after")
    def _embeds(self) -> Self:
        if self.screen == "cross-encoder" and self.to == "positives":
            raise ValueError(
                "a cross-encoder scores a passage for the query; only embeddings can be held `to: positives`"
            )
        return self


class CalibratedSettings(Settings):
    """A judge that weighs what the tiers before it found, by a file that `relabel calibrate` wrote.

    `cheap` weighs what stands before the strong tier, and is unsure of what that shall judge; `alone` weighs the same
    and is never unsure, for what the strong tier has abstained on; `combined` weighs that tier's verdict along with it.
    """

    calibration: str
    part: Literal["cheap", "alone", "combined"] = "cheap"


_KINDS = {WordScreenSettings: "words", ModelScreenSettings: "model", CalibratedSettings: "calibration"}


def _judge_kind(given: Any) -> str:
    if not isinstance(given, dict):
        return next((kind for settings, kind in _KINDS.items() if isinstance(given, settings)), "llm")
    if "screen" in given:
        return "model" if given["screen"] in _MODELS else "words"
    return "calibration" if "calibration" in given else "llm"


JudgeSettings = Annotated[
    Annotated[LLMJudgeSettings, Tag("llm")]
    | Annotated[WordScreenSettings, Tag("words")]
    | Annotated[ModelScreenSettings, Tag("model")]
    | Annotated[CalibratedSettings, Tag("calibration")],
    Discriminator(_judge_kind),
]


def _as_label(given: Any) -> Any:
    return str(given) if isinstance(given, int) and not isinstance(given, bool) else given


Label = Annotated[str, BeforeValidator(_as_label)]
"""What a judge can say; YAML reads a grade as a number."""


class EscalateSettings(Settings):
    """What a tier passes on: candidates with one of these labels ("abstained" is one), alone or with all the others."""

    labels: list[Label]
    scope: Literal["candidate", "instance"] = "candidate"


class TierSettings(Settings):
    """One judge's place in the cascade."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
    judge: JudgeSettings
    escalate: EscalateSettings | None = None


class CriteriaSettings(Settings):
    """Which criteria judge which subset: `subsets` maps its name to a kind; kinds in `unjudged` are left alone."""

    subsets: dict[str, str] = {}
    unjudged: list[str] = []


class PolicySettings(Settings):
    """Which final labels lead to which decision, and which labels of any tier lead to drop (`drop_any`).

    See relabel.policy for the rules and their order.
    """

    relabel: list[Label] = []
    drop: list[Label] = []
    remove: list[Label] = []
    drop_any: list[Label] = []
    abstained: Literal["keep", "drop"] = "keep"
    max_false_negatives: int | None = Field(None, ge=0)
    min_negatives: int = Field(0, ge=0)
    on_too_few: Literal["keep", "remove"] = "keep"

    @model_validator(mode="after")
    def _one_action_a_label(self) -> PolicySettings:
        actions = (self.relabel, {*self.drop, *self.drop_any}, self.remove)
        for label in {*self.relabel, *self.drop, *self.remove}:
            if sum(label in labels for labels in actions) > 1:
                raise ValueError(f"label {label!r} leads to more than one action; name it once")
        return self


class Price(Settings):
    """US dollars for a million tokens."""

    prompt: float = Field(ge=0)
    cached: float | None = Field(None, ge=0)
    completion: float = Field(ge=0)

    def less(self, discount: float) -> Price:
        """This price with a discount, a share of it."""
        cached = None if self.cached is None else self.cached * (1 - discount)
        return Price(prompt=self.prompt * (1 - discount), cached=cached, completion=self.completion * (1 - discount))


class BudgetSettings(Settings):
    """What this run's ledger may cost in all, over every restart.

    A run stops, too, when more than this share of the replies to a tier, and 100 of them at least, led to nothing but
    abstentions (`abstained`; null: never).
    """

    usd: float | None = Field(None, gt=0)
    requests: int | None = Field(None, ge=0)
    abstained: float | None = Field(0.95, ge=0, lt=1)


class LedgerSettings(Settings):
    """Other runs whose ledgers may answer, too."""

    read: list[str] = []


class OutputSettings(Settings):
    """The run folder, the format of the cleaned set ("same": the input's), and metadata for its dataset card."""

    dir: str | None = None
    format: str = "same"
    card: CardSettings = CardSettings()


class Config(Settings):
    """Everything a run is a function of, besides its source and its ledger."""

    input: InputSettings
    cascade: list[TierSettings] = Field(min_length=1)
    policy: PolicySettings
    criteria: CriteriaSettings = CriteriaSettings()
    clients: dict[str, ClientSettings] = {}
    prices: dict[str, Price] = {}
    budget: BudgetSettings = BudgetSettings()
    ledger: LedgerSettings = LedgerSettings()
    output: OutputSettings = OutputSettings()

    @model_validator(mode="after")
    def _fits_together(self) -> Config:
        names = [tier.name for tier in self.cascade]
        if len(set(names)) < len(names):
            raise ValueError(f"tiers share a name: {', '.join(names)}")
        for place, tier in enumerate(self.cascade, 1):
            if place < len(names) and tier.escalate is None:
                raise ValueError(f"tier {tier.name!r} is not the last and has no 'escalate': nothing would pass it")
            if place == len(names) and tier.escalate is not None:
                raise ValueError(f"tier {tier.name!r} is the last: there is nothing to escalate to")
            client = getattr(tier.judge, "client", None)
            if client is not None and client not in self.clients:
                known = ", ".join(self.clients) or "none"
                raise ValueError(f"tier {tier.name!r} names the client {client!r}; clients are: {known}")
        self._tell_models_apart()
        self._speak_to_vllm()
        if self.budget.usd is not None:
            models = {tier.judge.model for tier in self.cascade if isinstance(tier.judge, LLMJudgeSettings)}
            if unpriced := sorted(models - self.prices.keys()):
                raise ValueError(f"budget.usd needs prices for {', '.join(unpriced)}")
        return self

    def _speak_to_vllm(self) -> None:
        """Refuse what new servers let pass without a word, and two models for an engine that holds one."""
        held: dict[str, str] = {}
        for tier in self.cascade:
            if not isinstance(tier.judge, LLMJudgeSettings):
                continue
            client = self.clients[tier.judge.client]
            if not isinstance(client, VLLMClientSettings):
                continue
            if old := sorted(name for name in tier.judge.extra_body if name.startswith("guided_")):
                raise ValueError(
                    f"tier {tier.name!r}: vLLM ignores {', '.join(old)} since 0.12. The form of replies is asked for "
                    "by itself; for any other, `structured_outputs` is the name"
                )
            if client.max_model_len is not None and tier.judge.context > client.max_model_len:
                raise ValueError(
                    f"tier {tier.name!r}: its context of {tier.judge.context:,} tokens is more than max_model_len "
                    f"{client.max_model_len:,} of the client {tier.judge.client!r}; set the judge's context"
                )
            if client.model is not None and held.setdefault(tier.judge.client, tier.judge.model) != tier.judge.model:
                raise ValueError(
                    f"tier {tier.name!r}: the client {tier.judge.client!r} holds one model, {client.model}: a tier "
                    f"before calls it {held[tier.judge.client]!r}, this one {tier.judge.model!r}"
                )

    @property
    def free(self) -> frozenset[str]:
        """Models of screens: they run on our own machine, and no budget counts them."""
        return frozenset(tier.judge.model for tier in self.cascade if isinstance(tier.judge, ModelScreenSettings))

    @property
    def rates(self) -> dict[str, Price]:
        """What each model costs: its price, less the least discount of those who ask it."""
        found = dict.fromkeys(self.free, Price(prompt=0, completion=0)) | self.prices
        for model in self.prices:
            judges = [tier.judge for tier in self.cascade if isinstance(tier.judge, LLMJudgeSettings)]
            asked_by = [self.clients[judge.client] for judge in judges if judge.model == model]
            discounts = [one.discount if isinstance(one, BatchClientSettings) and one.submit else 0 for one in asked_by]
            if discount := min(discounts, default=0):
                found[model] = found[model].less(discount)
        return found

    def _tell_models_apart(self) -> None:
        """A reply's key holds the model's name, not the server's: one name on two servers would pass for one model."""
        seen: dict[tuple[str, str | None], str] = {}
        for tier in self.cascade:
            if isinstance(tier.judge, LLMJudgeSettings):
                client = seen.setdefault((tier.judge.model, tier.judge.model_revision), tier.judge.client)
                if client != tier.judge.client:
                    raise ValueError(
                        f"the clients {client!r} and {tier.judge.client!r} are both asked for a model "
                        f"{tier.judge.model!r}; tell the two apart with model_revision"
                    )
