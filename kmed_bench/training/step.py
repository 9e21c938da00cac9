"""One optimizer step: a batch in pieces, its loss summed, faults stopped before they reach the weights."""

import dataclasses
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from whisper.model import Whisper
from whisper.tokenizer import Tokenizer

from kmed_bench.asr.model.device import Precision
from kmed_bench.asr.model.tokenizer import korean_tokenizer
from kmed_bench.asr.model.windows import chunks
from kmed_bench.config import TrainConfig
from kmed_bench.core.errors import KmedError
from kmed_bench.scoring.edits import token_text_cer
from kmed_bench.training.batches import IGNORED, Batch, Example, n_learned
from kmed_bench.training.parallel import Parallel

log = logging.getLogger(__name__)

FAULTY_BATCH_NAME = "faulty-batch.pt"
# What fp16's loss scale falls under only when every step overflows: the model, not the scale, is at fault.
_SMALLEST_SCALE = 1.0

MakeBatch = Callable[[Sequence[Example]], Batch]


@dataclasses.dataclass
class Sums:
    """Sums of an epoch; each rate is one division at the end."""

    loss: float = 0.0
    tokens: int = 0
    errors: int = 0
    characters: int = 0

    def add(self, other: "Sums") -> None:
        """Add another's sums to these."""
        self.loss += other.loss
        self.tokens += other.tokens
        self.errors += other.errors
        self.characters += other.characters


class Stepper:
    """Takes the optimizer steps of a training.

    Parameters
    ----------
    network : torch.nn.Module
        A `LossNetwork`, wrapped by ``parallel`` where several processes train.
    folder : Path, optional
        Where a faulty batch is kept for inspection; it is speech, so it is never logged.

    Attributes
    ----------
    micro_batches : int
        In how many pieces a process computes its share of a batch.
    """

    def __init__(
        self,
        model: Whisper,
        network: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        config: TrainConfig,
        precision: Precision,
        parallel: Parallel,
        *,
        folder: Path | None = None,
    ) -> None:
        self.model, self.network, self.optimizer, self.config = model, network, optimizer, config
        self.parallel, self.folder = parallel, folder
        self.scaler = torch.amp.GradScaler(model.device.type, enabled=precision == "fp16")
        self.micro_batches = config.micro_batches
        self._tokenizer = korean_tokenizer()
        self._trained = [p for p in model.parameters() if p.requires_grad]

    def take(self, examples: Sequence[Example], make: MakeBatch, *, lr: float, where: str) -> Sums:
        """Take one step on a batch and return this process's sums.

        Parameters
        ----------
        make : callable
            Turns some of the examples into tensors, in the window of all of them.
        where : str
            What an error calls the step.

        Raises
        ------
        KmedError
            When the loss or its gradient is not finite, or memory runs out.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        while True:
            try:
                sums = self._backward(examples, make)
                break
            except (RuntimeError, MemoryError) as error:
                self._make_room(error, examples, where)
        self.scaler.unscale_(self.optimizer)
        norm = self._clip()
        self._check(sums, norm, examples, make, where)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return sums

    def _backward(self, examples: Sequence[Example], make: MakeBatch) -> Sums:
        """Leave the gradient of the batch's mean loss on the parameters; return this process's sums."""
        self.optimizer.zero_grad(set_to_none=True)
        n_tokens = sum(n_learned(e, self._tokenizer) for e in examples)
        # A process without a clip in a last, short batch computes one for nothing: the others wait for its gradient.
        own = self.parallel.share(examples)
        weight = float(self.parallel.world) / n_tokens if own else 0.0
        sums = Sums()
        pieces = list(chunks(own or list(examples[:1]), math.ceil(max(len(own), 1) / self.micro_batches)))
        for i, piece in enumerate(pieces):
            batch = make(piece)
            with self.parallel.synchronised(self.network, i + 1 == len(pieces)):
                loss, best = self._forward(batch)
                # Engines average gradients over processes; the weight makes that the mean over all tokens.
                self.scaler.scale(loss * weight).backward()
            if own:
                errors, characters = _teacher_forced_errors(batch, best, self._tokenizer)
                sums.add(Sums(loss.item(), int((batch.targets != IGNORED).sum()), errors, characters))
        return sums

    def _forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        device = self.model.device
        tensors = (t.to(device) for t in (batch.mel, batch.inputs, batch.targets))
        loss, best = self.network(*tensors, thin_after=batch.thin_after)
        return loss, best

    def _clip(self) -> float:
        """Return the gradient's norm, after which it is at most the limit where there is one."""
        norm = total_norm([p.grad for p in self._trained if p.grad is not None])
        if self.config.grad_clip is not None:
            torch.nn.utils.clip_grads_with_norm_(self._trained, self.config.grad_clip, norm)
        return float(norm)

    def _check(self, sums: Sums, norm: float, examples: Sequence[Example], make: MakeBatch, where: str) -> None:
        overflow = self.scaler.is_enabled() and self.scaler.get_scale() >= _SMALLEST_SCALE
        # fp16 leaves out steps whose scaled gradient overflows, and lowers the scale: that is no fault.
        if math.isfinite(sums.loss) and (math.isfinite(norm) or overflow):
            return
        own = self.parallel.share(examples) or list(examples[:1])
        kept = ""
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / FAULTY_BATCH_NAME
            batch = make(own)
            names = [e.utterance_id for e in own]
            torch.save({"utterance_ids": names, "audio": batch.mel, "inputs": batch.inputs, "where": where}, path)
            kept = f" The batch is kept in {path}, on this machine alone."
        raise KmedError(
            f"The loss is {sums.loss} and its gradient's norm {norm} at {where} (utterances "
            f"{', '.join(e.utterance_id for e in own)}). Lower train.lr (now {self.config.lr}), set "
            f"train.grad_clip=1.0 or train.precision=fp32, and check these recordings.{kept}"
        )

    def _make_room(self, error: Exception, examples: Sequence[Example], where: str) -> None:
        """Double the pieces after a lack of memory where that is wanted; raise otherwise, and for other errors."""
        if not _is_out_of_memory(error):
            raise error
        share = len(self.parallel.share(examples))
        alone = self.parallel.world == 1  # other processes would be in the middle of an exchange with this one
        if alone and self.config.out_of_memory == "halve" and self.micro_batches < share:
            self.micro_batches *= 2
            self.optimizer.zero_grad(set_to_none=True)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            log.warning(
                f"Out of memory at {where}: each batch is computed in {self.micro_batches} pieces from here on."
            )
            return
        more = f"train.micro_batches={self.micro_batches * 2} (the batch of {self.config.batch_size} stays), "
        smaller = more if self.micro_batches < share else ""
        raise KmedError(
            f"Memory ran out at {where}, with {math.ceil(share / self.micro_batches)} clips at once. Set {smaller}"
            "train.gradient_checkpointing=true, train.audio_context=dynamic, train.lora_rank=8 or a smaller size"
            f"{', or train.out_of_memory=halve' if smaller and alone else ''}."
        ) from None


def total_norm(gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the Euclidean norm of all gradients together."""
    if gradients[0].device.type != "cpu":
        return torch.nn.utils.get_total_norm(gradients)
    # torch's norm reads memory at half the speed of a dot product on the CPU, which shows in short steps.
    return torch.stack([torch.dot(g.flatten(), g.flatten()) for g in gradients]).sum().sqrt()


def _is_out_of_memory(error: Exception) -> bool:
    # On the CPU torch has no type of its own for it; its kernels' library only says that it can't make one.
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return any(words in str(error) for words in ("can't allocate memory", "could not create a primitive"))


def _teacher_forced_errors(batch: Batch, best: torch.Tensor, tokenizer: Tokenizer) -> tuple[int, int]:
    counts = [n_learned(example, tokenizer) for example in batch.examples]
    texts = [
        tokenizer.decode([token for token in tokens.tolist() if token < tokenizer.eot])
        for tokens in best.cpu().split(counts)
    ]
    return token_text_cer([example.text for example in batch.examples], texts)
