"""A model of LLaVA's kind, its vision tower swapped for an aligned student: pictures and words in, an answer out.

What transformers' `LlavaForConditionalGeneration` computes is computed here in the same steps, with three differences that
explanations need: the visual tokens may come from a student, Gemma-2's final soft cap is applied (transformers' LLaVA leaves
it out), and everything stays at hand. The picture is prepared as the checkpoint's own image processor says, at the student's
own number of pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from aloe.apps.grounding.language import cap, check_decoder
from aloe.apps.grounding.view import View
from aloe.apps.grounding.vision import Pull, Reading, check_student, reading_of, through_student, through_tower
from aloe.core.errors import UserError
from aloe.data.transforms import to_tensor

IMAGE = "<image>"
TOWERS = ("siglip_vision_model", "clip_vision_model")


@dataclass(frozen=True)
class VisionLanguage:
    """A LLaVA model with what it takes to ask it: tokenizer, view, and the student in its tower's place, if any.

    Raises:
        UserError: a text tower, vision tower or student that token grounding cannot explain.
    """

    model: Any
    tokenizer: Any
    view: View
    student: Any = None
    pooled: bool = False
    """Whether the one visual token is the encoder's pooled output (attention pooling, CLS or mean)."""
    template: str | None = None
    """A Jinja chat template over the tokenizer's own."""

    def __post_init__(self) -> None:
        check_decoder(self.decoder)
        kind = self.model.config.vision_config.model_type
        if kind not in TOWERS:
            raise UserError(
                f"The vision tower is a {kind}; token grounding takes SigLIP, fixed-resolution SigLIP2 and CLIP."
            )
        if self.student is not None:
            check_student(self.student, self.model.config.vision_config, self.reading)

    def to(self, device: str | torch.device) -> VisionLanguage:
        """The same, with model and student moved to a device."""
        self.model.to(device)
        if self.student is not None:
            self.student.to(device)
        return self

    @property
    def decoder(self) -> Any:
        return self.model.model.language_model

    @property
    def projector(self) -> nn.Module:
        return self.model.model.multi_modal_projector

    @property
    def tower(self) -> nn.Module:
        return self.model.model.vision_tower

    @property
    def reading(self) -> Reading:
        return reading_of(self.model.config, pooled=self.pooled)

    @property
    def softcap(self) -> float | None:
        """c of Gemma-2's final soft cap."""
        return getattr(self.model.config.text_config, "final_logit_softcapping", None)

    @property
    def image_token(self) -> int:
        return int(self.model.config.image_token_index)

    @property
    def image_tokens(self) -> int:
        """Visual tokens of one image."""
        config = self.model.config.vision_config
        return self.reading.tokens_of((config.image_size // config.patch_size) ** 2)

    def with_student(self, student: Any, aligned: Sequence[int] | None = None) -> VisionLanguage:
        """The same model looking through a student.

        Args:
            aligned: the blocks after which the student was aligned, where that is known (`aligned_blocks`).

        Raises:
            UserError: it cannot stand where the tower stood, see `vision.check_student`.
        """
        check_student(
            student, self.model.config.vision_config, self.reading, None if aligned is None else list(aligned)
        )
        return replace(self, student=student)

    def picture(self, image: Image.Image, *, plain: bool = False) -> Image.Image:
        """What the encoder sees: RGB at its own number of pixels; `plain`: the tower's, also where there is a student."""
        config = self.model.config.vision_config
        grid = config.image_size // config.patch_size
        if self.student is None or plain:
            return self.view.picture(image, config.image_size)
        return self.view.picture(image, grid * self.student.config.patch_size)

    def see(self, picture: Image.Image, *, plain: bool = False, variant: str = "full") -> tuple[Tensor, Pull]:
        """Visual tokens (1, tokens, D) of a `picture` before the projector, and their way back to the pixels."""
        pixels = to_tensor(picture)[None].to(next(self.model.parameters()).device)
        if self.student is None or plain:
            return through_tower(self.tower, self.view.normalize(pixels), self.reading, variant=variant)
        return through_student(self.student, pixels, self.reading)

    def ids(self, prompt: str) -> list[int]:
        """Token ids of a question, in the model's chat format, with one id per visual token.

        A prompt that holds `<image>` is taken as it stands.

        Raises:
            UserError: no place or several places for the image, another number of them than visual tokens, or no chat format.
        """
        text = prompt if IMAGE in prompt else self._asked(prompt)
        pieces, places = text.split(IMAGE), text.count(IMAGE)
        if places not in (1, self.image_tokens):
            raise UserError(
                f"The prompt has {places} image tokens ({IMAGE}) but the vision tower gives {self.image_tokens}; write one,"
                " which stands for all."
            )
        bos = getattr(self.tokenizer, "bos_token", None)
        added = not (bos and text.startswith(bos))
        if self.tokenizer.convert_tokens_to_ids(IMAGE) == self.image_token:
            ids = list(self.tokenizer(text, add_special_tokens=added)["input_ids"])
        else:  # a mark that the tokenizer does not know: what stands on either side is tokenized by itself
            ids = list(self.tokenizer(pieces[0], add_special_tokens=added)["input_ids"])
            for piece in pieces[1:]:
                ids += [self.image_token, *self.tokenizer(piece, add_special_tokens=False)["input_ids"]]
        count = ids.count(self.image_token)
        if count == 1:
            at = ids.index(self.image_token)
            ids[at : at + 1] = [self.image_token] * self.image_tokens
        elif count != self.image_tokens:
            raise UserError(
                f"The tokenizer makes {count} image tokens (id {self.image_token}) of the prompt's {places} {IMAGE}; its"
                " tokenizer and configuration are not of the same checkpoint."
            )
        return ids

    def embed(self, ids: Sequence[int], tokens: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Embeddings (1, N, D) of token ids with projected visual tokens (1, tokens, D) in their place.

        Raises:
            UserError: another number of places than visual tokens.
        """
        device = next(self.model.parameters()).device
        row = torch.tensor([list(ids)], device=device)
        places = row == self.image_token
        if int(places.sum()) != tokens.shape[1]:
            raise UserError(
                f"The prompt has {int(places.sum())} image tokens but the vision encoder gives {tokens.shape[1]}."
            )
        embedded = self.decoder.get_input_embeddings()(row.masked_fill(places, 0))
        embedded = embedded.to(dtype or embedded.dtype)
        return embedded.masked_scatter(places[..., None], tokens.to(embedded.device, embedded.dtype))

    @torch.no_grad()
    def answer(self, ids: Sequence[int], tokens: Tensor, limit: int = 64) -> list[int]:
        """The likeliest token after token, with cached keys and values, until the model stops or after `limit` of them.

        Args:
            tokens: visual tokens (1, tokens, D) before the projector.
        """
        reference = next(self.projector.parameters())
        hidden = self.embed(ids, self.projector(tokens.to(reference.device, reference.dtype)))
        self.check_length(len(ids) + 1)
        reply: list[int] = []
        cache: Any = None
        room = self.model.config.text_config.max_position_embeddings - len(ids)
        while len(reply) < min(limit, room):
            out = self.decoder(inputs_embeds=hidden, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            token = int(self.logits(out.last_hidden_state[:, -1]).argmax())
            if token in self.stops:
                break
            reply.append(token)
            hidden = self.decoder.get_input_embeddings()(torch.tensor([[token]], device=hidden.device))
        return reply

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of normed hidden states, soft cap included."""
        return cap(F.linear(hidden, self.model.lm_head.weight), self.softcap)

    @property
    def stops(self) -> set[int]:
        """Ids that end an answer."""
        generation = getattr(self.model, "generation_config", None)
        named = [getattr(generation, "eos_token_id", None), self.model.config.text_config.eos_token_id]
        named.append(self.tokenizer.eos_token_id)
        return {i for n in named if n is not None for i in ([n] if isinstance(n, int) else n)}

    def check_length(self, tokens: int) -> None:
        """Refuses more tokens than the text tower's context holds.

        Raises:
            UserError: it does not fit.
        """
        room = self.model.config.text_config.max_position_embeddings
        if tokens > room:
            raise UserError(
                f"Image, prompt and answer are {tokens} tokens but the text tower's context holds {room}; shorten them."
            )

    def _asked(self, prompt: str) -> str:
        message = [{"role": "user", "content": f"{IMAGE}\n{prompt}"}]
        template = self.template or getattr(self.tokenizer, "chat_template", None)
        if not template:
            raise UserError(
                f"The model has no chat template, so the prompt must hold the image token: write {IMAGE} where it stands."
            )
        if "type" in template and "content" in template and "'image'" in template.replace('"', "'"):
            parts = [{"type": "image"}, {"type": "text", "text": prompt}]
            message = [{"role": "user", "content": parts}]  # type: ignore[dict-item]
        text = self.tokenizer.apply_chat_template(
            message, chat_template=template, tokenize=False, add_generation_prompt=True
        )
        if IMAGE not in text:
            raise UserError(f"The chat template leaves out the image token {IMAGE}; write it in the prompt.")
        return text
