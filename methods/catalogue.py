"""Every method of the library: one record each, and nothing that imports JAX.

`python -m lemmata.methods` prints the records as a table; `methods/README.md` is the same table, written by
`python -m lemmata.methods --markdown`. To add a method, add its record to `METHODS`.
"""

import ast
import pathlib
from typing import NamedTuple

_FOLDER = pathlib.Path(__file__).parent


class Method(NamedTuple):
    """One paper, one module.

    Attributes:
        name: of the module, of its goldens and of its config.
        kind: its folder under `methods/`, such as "bounds" or "losses/contrastive".
        functions: the public functions (and Flax modules), in the order of the module.
        title: of the paper.
        source: "arXiv:<id>" where there is one, else the venue.
        year: of publication.
    """

    name: str
    kind: str
    functions: tuple[str, ...]
    title: str
    source: str
    year: int

    @property
    def module(self) -> str:
        """Dotted name to import, "lemmata.methods.bounds.demi"."""
        return ".".join(["lemmata.methods", *self.kind.split("/"), self.name])

    @property
    def config(self) -> str:
        """Path from the repository root, "configs/bounds/demi.py"."""
        return f"configs/{self.kind}/{self.name}.py"

    @property
    def url(self) -> str | None:
        """Where to read the paper, if it is on arXiv."""
        if not self.source.startswith("arXiv:"):
            return None
        return f"https://arxiv.org/abs/{self.source.removeprefix('arXiv:')}"

    @property
    def docstring(self) -> str:
        """Of the module, read from its source: importing all methods would take a while."""
        source = (_FOLDER / self.kind / f"{self.name}.py").read_text(encoding="utf-8")
        return ast.get_docstring(ast.parse(source)) or ""

    @property
    def summary(self) -> str:
        """First sentence of the docstring."""
        return self.docstring.partition("\n")[0]

    @property
    def departures(self) -> str | None:
        """What the docstring says on where the released program and the paper differ, on one line; None if nothing."""
        for paragraph in self.docstring.split("\n\n"):
            if paragraph.startswith("Departures:"):
                return " ".join(paragraph.removeprefix("Departures:").split())
        return None


METHODS: tuple[Method, ...] = (
    Method(
        name="demi",
        kind="bounds",
        functions=(
            "info_nce_bound",
            "conditional_info_nce_bound",
            "importance_sampled_bound",
            "boosted_critic_bound",
            "demi_bound",
            "gaussian_subview_critics",
            "sample_gaussian_subviews",
        ),
        title="Decomposed Mutual Information Estimation for Contrastive Representation Learning",
        source="arXiv:2106.13401",
        year=2021,
    ),
    Method(
        name="dib_mix",
        kind="clustering",
        functions=(
            "mixed_conditional",
            "select_continuous_bandwidth",
            "select_bandwidths",
            "dib_step",
            "dib",
            "dib_mix",
            "dib_mix_columns",
            "cluster_information",
        ),
        title="A Deterministic Information Bottleneck Method for Clustering Mixed-Type Data",
        source="arXiv:2407.03389",
        year=2026,
    ),
    Method(
        name="conceptual_contextual",
        kind="layers",
        functions=(
            "init_bilstm",
            "bilstm_encode",
            "entity_embedding",
            "triple_score",
            "triple_loss",
            "contextual_features",
            "BiLSTM",
        ),
        title="Learning Conceptual-Contextual Embeddings for Medical Text",
        source="arXiv:1908.06203",
        year=2020,
    ),
    Method(
        name="imagined_speech",
        kind="layers",
        functions=(
            "init_eegnet",
            "eegnet",
            "init_shallow_convnet",
            "shallow_convnet",
            "init_deep_convnet",
            "deep_convnet",
            "max_norm",
            "fit_csp",
            "csp_features",
            "fit_lda",
            "hinge_loss",
        ),
        title="Imagined Speech State Classification for Robust Brain-Computer Interface",
        source="arXiv:2412.12215",
        year=2024,
    ),
    Method(
        name="prompt_guided_masks",
        kind="layers",
        functions=(
            "prompt_cross_attention",
            "mask_logits",
            "prompt_scores",
            "semantic_map",
            "dice_loss",
            "PromptCrossAttention",
            "PromptGuidedDecoderLayer",
        ),
        title="Prompt-Guided Mask Proposal for Two-Stage Open-Vocabulary Segmentation",
        source="arXiv:2412.10292",
        year=2024,
    ),
    Method(
        name="kto",
        kind="losses/alignment",
        functions=(
            "sequence_logps",
            "sft_loss",
            "kl_reference_point",
            "kto_loss",
            "two_stage_weights",
            "linear_merge",
            "slerp_merge",
            "ties_merge",
            "select_alignment_data",
        ),
        title="A Post-Training Enhanced Optimization Approach for Small Language Models",
        source="arXiv:2411.02939",
        year=2024,
    ),
    Method(
        name="rcrl",
        kind="losses/contrastive",
        functions=(
            "return_segments",
            "sample_segment_pairs",
            "return_pair_labels",
            "rcrl_loss",
            "optimal_discriminator",
            "PairDiscriminator",
        ),
        title="Return-Based Contrastive Representation Learning for Reinforcement Learning",
        source="arXiv:2102.10960",
        year=2021,
    ),
    Method(
        name="clipped_uniform",
        kind="quantizers",
        functions=(
            "optimal_clip",
            "quantize",
            "stochastic_quantize",
            "expected_clip_mse",
            "inverse_mse_weights",
            "aggregate",
            "fake_quantize",
        ),
        title="Communication-Efficient Federated Learning via Clipped Uniform Quantization",
        source="arXiv:2405.13365",
        year=2024,
    ),
    Method(
        name="favicomp",
        kind="samplers",
        functions=("ensemble_log_probs", "perplexity", "decode", "decode_bigram", "compression_rate"),
        title="Familiarity-Aware Evidence Compression for Retrieval-Augmented Generation",
        source="arXiv:2409.12468",
        year=2025,
    ),
    Method(
        name="federated_mvr",
        kind="transforms",
        functions=(
            "mvr_momentum",
            "mvr_directions",
            "storm",
            "client_update",
            "quadratic_clients",
            "adaptive_server_update",
            "mvr_round",
        ),
        title="Non-Convex Optimization in Federated Learning via Variance Reduction and Adaptive Learning",
        source="arXiv:2412.11660",
        year=2024,
    ),
)
