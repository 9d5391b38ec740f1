"""Where the question answering head says that it looks, against the formulas of attention written out."""

import torch

from mettle_cache.decoders.avqa import ATTENTION_HEADS, AVQADecoder
from mettle_cache.decoders.avqa_grounding import Pictures


def test_shares_are_the_softmax_of_scaled_products_and_of_cosines():
    torch.manual_seed(0)
    decoder = AVQADecoder(6, 8, words=5, answers=3).double().eval()
    audio, tokens = torch.randn(2, 4, 6).double(), torch.randn(2, 4, 5, 8).double()
    question = torch.tensor([[1, 2, 0], [3, 0, 0]])
    seen, heard, places = decoder.look(audio, Pictures.of(tokens), question)

    sound = decoder.grounding.fc_a2(decoder.grounding.fc_a1(audio).relu())
    cosines = torch.nn.functional.cosine_similarity(tokens, sound[:, :, None], dim=-1)
    torch.testing.assert_close(places, cosines.softmax(-1))

    attention = decoder.audio_attention.attention
    (w_q, w_k, _), (b_q, b_k, _) = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    query = (decoder.question(question) @ w_q.T + b_q).unflatten(-1, (ATTENTION_HEADS, -1))
    keys = (sound @ w_k.T + b_k).unflatten(-1, (ATTENTION_HEADS, -1))
    logits = torch.einsum("bhd,bthd->bht", query, keys) / query.shape[-1] ** 0.5
    torch.testing.assert_close(heard, logits.softmax(-1).mean(1))
    torch.testing.assert_close(seen.sum(-1), torch.ones(2).double())
