"""From letters to phonemes with two GRUs (Cho et al. 2014, arXiv 1406.1078, sections 2.1 and 2.3), as two networks of named
stages: the encoder has embed, encoder, state, and the decoder, which starts from that state, has decoder, head.

Phonemes are those of the CMU Pronouncing Dictionary, a vowel with its stress: 0 none, 1 primary, 2 secondary.
"""
from __future__ import annotations

import functools
import os
from typing import NamedTuple, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from theseus_jax.errors import UserError
from theseus_jax.nets import decode
from theseus_jax.nets.stage import Masked, Network, Variables, forward, network
from theseus_jax.nets.weights.placed import KERNEL, Place, load
from theseus_jax.packaged import Pinned

LETTERS = ("<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz")
PHONEMES = (
    "<pad>", "<unk>", "<s>", "</s>", *"""AA0 AA1 AA2 AE0 AE1 AE2 AH0 AH1 AH2 AO0 AO1 AO2 AW0 AW1 AW2 AY0 AY1 AY2 B CH D DH
    EH0 EH1 EH2 ER0 ER1 ER2 EY0 EY1 EY2 F G HH IH0 IH1 IH2 IY0 IY1 IY2 JH K L M N NG OW0 OW1 OW2 OY0 OY1 OY2 P R S SH T TH
    UH0 UH1 UH2 UW UW0 UW1 UW2 V W Y Z ZH""".split())
UNKNOWN, LAST_LETTER, START, END = 1, 2, 2, 3
LETTERS_STEP = 8  # words are padded to a multiple of it, so that few lengths are compiled
G2P_FILE = Pinned("g2p-en", "2.1.0", "g2p_en/checkpoint20.npz",
                  "b8af35e4596d8dd5836dfd3fe9b2ba4f97b9c311efe8879544cbcfcbd566d8c6")


class GRU(nn.Module):
    """A gated recurrent unit over the tokens: x (B, T, I), the state before them (B, J) -> all states (B, T, J).

    r, z = sigmoid(x W + b + h U + c), n = tanh(x W + b + r (h U + c)), h' = (1 - z) n + z h; the reset gate is applied after
    the product, with a bias on both sides, as cuDNN and PyTorch do. Kernels hold r, z, n side by side.
    """

    hidden: int

    def setup(self) -> None:
        self.input = nn.Dense(3 * self.hidden)
        self.kernel = self.param("recurrent", nn.initializers.orthogonal(), (self.hidden, 3 * self.hidden))
        self.bias = self.param("recurrent_bias", nn.initializers.zeros, (3 * self.hidden,))

    def _advance(self, u: jax.Array, h: jax.Array) -> jax.Array:
        (r_u, z_u, n_u), (r_h, z_h, n_h) = (jnp.split(part, 3, -1) for part in (u, h @ self.kernel + self.bias))
        r, z = nn.sigmoid(r_u + r_h), nn.sigmoid(z_u + z_h)
        return (1 - z) * jnp.tanh(n_u + r * n_h) + z * h

    def __call__(self, x: jax.Array, start: jax.Array) -> jax.Array:
        def advance(h, u):
            h = self._advance(u, h)
            return h, h

        return jnp.swapaxes(jax.lax.scan(advance, start, jnp.swapaxes(self.input(x), 0, 1))[1], 0, 1)

    def step(self, x: jax.Array, h: jax.Array) -> jax.Array:
        return self._advance(self.input(x), h)


class Embed(nn.Module):
    """A vector for each letter: Masked of (B, T) int32 ids -> of (B, T, D)."""

    vocabulary: int
    width: int

    @nn.compact
    def __call__(self, x: Masked) -> Masked:
        return Masked(self.param("tokens", nn.initializers.normal(1.0), (self.vocabulary, self.width))[x.values], x.mask)


class Encoder(nn.Module):
    """A GRU from a state of zeros: Masked of (B, T, D) -> of (B, T, J). No state depends on what follows it."""

    hidden: int

    @nn.compact
    def __call__(self, x: Masked) -> Masked:
        start = jnp.zeros((x.values.shape[0], self.hidden), x.values.dtype)
        return Masked(GRU(self.hidden, name="gru")(x.values, start), x.mask)


class State(nn.Module):
    """What stands at the mask's last token, padding being on the right: Masked of (B, T, J) -> (B, J)."""

    @nn.compact
    def __call__(self, x: Masked) -> jax.Array:
        last = jnp.maximum((x.mask > 0).sum(1) - 1, 0)
        return jnp.take_along_axis(x.values, last[:, None, None], 1)[:, 0]


class Spoken(NamedTuple):
    """What the decoder reads: the encoder's state (B, J), and the phonemes (B, U) int32 before each that is asked for."""

    state: jax.Array
    phonemes: jax.Array


class Decoder(nn.Module):
    """A GRU over the vectors of the phonemes said so far, from the encoder's state: Spoken -> (B, U, J)."""

    vocabulary: int
    width: int
    hidden: int

    def setup(self) -> None:
        self.tokens = self.param("tokens", nn.initializers.normal(1.0), (self.vocabulary, self.width))
        self.gru = GRU(self.hidden)

    def __call__(self, x: Spoken) -> jax.Array:
        return self.gru(self.tokens[x.phonemes], x.state)

    def step(self, phoneme: jax.Array, state: jax.Array) -> tuple[jax.Array, jax.Array]:
        state = self.gru.step(self.tokens[phoneme], state)
        return state, state


def g2p_encoder(*, width: int = 256, hidden: int = 256) -> Network:
    """Letters to a state: Masked of (B, T) int32 ids of `LETTERS`, as `coded` gives -> (B, hidden) float32."""
    return network([("embed", Embed(len(LETTERS), width)), ("encoder", Encoder(hidden)), ("state", State())])


def g2p_decoder(*, width: int = 256, hidden: int = 256) -> Network:
    """A state and the phonemes so far to the next ones: `Spoken`, its phonemes beginning with "<s>" -> (B, U, 74) float32
    logits of `PHONEMES`.
    """
    return network([("decoder", Decoder(len(PHONEMES), width, hidden)), ("head", nn.Dense(len(PHONEMES)))])


def coded(words: Sequence[str]) -> Masked:
    """The ids of each word's letters and of "</s>" after them: Masked of (B, T) int32, T a multiple of 8.

    Case does not count; what is no letter from a to z becomes "<unk>". Raises UserError for a text instead of a list.
    """
    if isinstance(words, str):
        raise UserError(f"words is the text {words[:40]!r}, not a list; give its words, for example text.split()")
    known = {letter: i for i, letter in enumerate(LETTERS)}
    ids = [[known.get(letter, UNKNOWN) for letter in word.lower()] + [LAST_LETTER] for word in words]
    length = -(-max(map(len, ids), default=1) // LETTERS_STEP) * LETTERS_STEP
    padded = np.array([row + [0] * (length - len(row)) for row in ids], np.int32).reshape(-1, length)
    mask = np.array([[1] * len(row) + [0] * (length - len(row)) for row in ids], np.int32).reshape(-1, length)
    return Masked(padded, mask)


def greedy(net: Network, variables: Variables, state: jax.Array, *, longest: int = 20) -> jax.Array:
    """The likeliest phoneme after those chosen before, `longest` times: state (B, J) -> (B, longest) int32.

    The result are ids of `PHONEMES`. net: a `g2p_decoder(...)`, or one with another head. Once "</s>" is chosen it stays.
    """
    def choose(carry, _):
        token, carries = carry
        logits, carries = decode.step(net, variables, token, carries)
        token = jnp.where(token == END, END, logits.argmax(-1).astype(jnp.int32))
        return (token, carries), token

    start = jnp.full(len(state), START, jnp.int32)
    return jax.lax.scan(choose, (start, {"decoder": state}), None, length=longest)[1].T


@functools.partial(jax.jit, static_argnames=("encoder", "decoder", "longest"))
def _transcribed(encoder: Network, decoder: Network, variables: Variables, x: Masked, longest: int) -> jax.Array:
    return greedy(decoder, variables, forward(encoder, variables, x)[0], longest=longest)


def transcribe(
    variables: Variables, words: Sequence[str], *, longest: int = 20, encoder: Network | None = None,
    decoder: Network | None = None,
) -> list[tuple[str, ...]]:
    """The phonemes of each word, by greedy choice, at most `longest` of them: ["teacher"] -> [("T", "IY1", "CH", "ER0")].

    variables: of both networks, as `load_g2p` gives. encoder, decoder: the networks; None: those of the defaults. Compiled
    once for each number of words and each multiple of 8 letters. Raises UserError for a text instead of a list of words.
    """
    x = coded(words)
    ids = np.asarray(_transcribed(encoder or g2p_encoder(), decoder or g2p_decoder(), variables, x, longest))
    return [tuple(PHONEMES[i] for i in row if i != END) for row in ids.tolist()]


def tensor_places() -> tuple[dict[str, Place], dict[str, Place]]:
    """{name in the .npz file: place} of the encoder's and of the decoder's tensors."""
    def gru(given: str, ours: str) -> dict[str, Place]:
        return {f"{given}_w_ih": Place(f"{ours}/gru/input/kernel", KERNEL[2]),
                f"{given}_b_ih": Place(f"{ours}/gru/input/bias"),
                f"{given}_w_hh": Place(f"{ours}/gru/recurrent", KERNEL[2]),
                f"{given}_b_hh": Place(f"{ours}/gru/recurrent_bias")}

    head = {"fc_w": Place("head/params/kernel", KERNEL[2]), "fc_b": Place("head/params/bias")}
    return ({"enc_emb": Place("embed/params/tokens"), **gru("enc", "encoder/params")},
            {"dec_emb": Place("decoder/params/tokens"), **gru("dec", "decoder/params"), **head})


def load_g2p(path: str | os.PathLike | None = None, *, width: int = 256, hidden: int = 256) -> Variables:
    """The variables of `g2p_encoder()` and `g2p_decoder()` as trained on the CMU Pronouncing Dictionary.

    834,890 parameters. path: an .npz or other file with the package's names; None: the one in the PyPI package g2p-en 2.1.0
    (Apache-2.0), whose SHA-256 is checked. width, hidden: those of another file's networks.
    Raises UserError when that package is missing, or for tensors that are not those of the networks.
    """
    ids, state = jax.ShapeDtypeStruct((1, 1), jnp.int32), jax.ShapeDtypeStruct((1, hidden), jnp.float32)
    sizes, (encoder, decoder) = {"width": width, "hidden": hidden}, tensor_places()
    read = load(g2p_encoder(**sizes), Masked(ids, ids), G2P_FILE, path, encoder, unused="(dec|fc)_.*", what="g2p-en encoder")
    said = load(g2p_decoder(**sizes), Spoken(state, ids), G2P_FILE, path, decoder, unused="enc_.*", what="g2p-en decoder")
    return {**read, **said}
