"""What the conformance checks take from no rule, by name: the only place that excludes any.

`EXCLUDED`: checks that do not apply to a function. `(call, check) -> reason`, where `call` is as in the goldens,
"methods.<kind>.<name>:<function>", and `check` is one of jit, vmap, grad, float32, empty, sharded, retrace, or "all".

`KEEPS_DTYPE`: results that are of their inputs' own kind (weights, features, statistics) and keep a half precision.
`call -> {path: kind}`; the path is of the result or of what holds it, "" for all, "0" or "filters" for a part.

`BATCH`: the arguments that have the batch's axis, where these are not the arrays as long as the first one.
"""

DRAWS = "draws from a key alone: no input is a float"
SIZES = "draws from a key and sizes that are static: no input has a batch's axis"
SCALARS = "a static number of classes and a scalar: no input has a batch's axis"
CODES = "codes and bytes are integers"
MODEL = "trees of weights: no axis of a leaf is a batch's"

EXCLUDED: dict[tuple[str, str], str] = {
    ("methods.bounds.demi:sample_gaussian_subviews", "empty"): SIZES,
    ("methods.layers.conceptual_contextual:init_bilstm", "grad"): DRAWS,
    ("methods.layers.conceptual_contextual:init_bilstm", "float32"): DRAWS,
    ("methods.layers.conceptual_contextual:init_bilstm", "empty"): SIZES,
    ("methods.layers.imagined_speech:init_eegnet", "grad"): DRAWS,
    ("methods.layers.imagined_speech:init_eegnet", "float32"): DRAWS,
    ("methods.layers.imagined_speech:init_eegnet", "empty"): SIZES,
    ("methods.layers.imagined_speech:init_shallow_convnet", "grad"): DRAWS,
    ("methods.layers.imagined_speech:init_shallow_convnet", "float32"): DRAWS,
    ("methods.layers.imagined_speech:init_shallow_convnet", "empty"): SIZES,
    ("methods.layers.imagined_speech:init_deep_convnet", "grad"): DRAWS,
    ("methods.layers.imagined_speech:init_deep_convnet", "float32"): DRAWS,
    ("methods.layers.imagined_speech:init_deep_convnet", "empty"): SIZES,
    ("methods.losses.alignment.kto:two_stage_weights", "grad"): "a step is an integer",
    ("methods.losses.alignment.kto:two_stage_weights", "float32"): "a step is an integer",
    ("methods.losses.alignment.kto:slerp_merge", "empty"): MODEL,
    ("methods.losses.alignment.kto:ties_merge", "empty"): MODEL,
    ("methods.losses.alignment.kto:select_alignment_data", "grad"): "a choice has no gradient",
    ("methods.losses.contrastive.normface:normalized_softmax_lower_bound", "empty"): SCALARS,
    ("methods.losses.contrastive.normface:required_scale", "empty"): SCALARS,
    ("methods.losses.contrastive.normface:novel_class_predict", "grad"): "a choice has no gradient",
    ("methods.losses.contrastive.rcrl:return_segments", "grad"): "segments are numbered",
    ("methods.losses.contrastive.rcrl:sample_segment_pairs", "grad"): "segments and pairs are numbered",
    ("methods.losses.contrastive.rcrl:sample_segment_pairs", "float32"): "segments and pairs are numbered",
    ("methods.quantizers.clipped_uniform:pack_bits", "grad"): CODES,
    ("methods.quantizers.clipped_uniform:pack_bits", "float32"): CODES,
    ("methods.quantizers.clipped_uniform:unpack_bits", "grad"): CODES,
    ("methods.quantizers.clipped_uniform:unpack_bits", "float32"): CODES,
    ("methods.samplers.favicomp:decode", "grad"): "tokens have no gradient",
    ("methods.samplers.favicomp:decode_bigram", "grad"): "tokens have no gradient",
    ("methods.samplers.favicomp:compression_rate", "grad"): "counts of booleans",
    ("methods.samplers.favicomp:compression_rate", "float32"): "counts of booleans",
    ("methods.transforms.federated_mvr:init_federated", "empty"): MODEL,
}

STATE = {"": "a state of weights and directions"}
FEDADAM = {
    "params": "weights",
    "previous_params": "weights",
    "direction": "gradients",
    "momentum": "the mean of updates",
}  # and second_moment, a mean of squares, is float32

KEEPS_DTYPE: dict[str, dict[str, str]] = {
    "methods.layers.conceptual_contextual:bilstm_encode": {"": "features"},
    "methods.layers.conceptual_contextual:entity_embedding": {"": "features"},
    "methods.layers.conceptual_contextual:contextual_features": {"": "features"},
    "methods.layers.conceptual_contextual:BiLSTM": {"": "features"},
    "methods.layers.imagined_speech:eegnet": {"1": "running statistics"},
    "methods.layers.imagined_speech:shallow_convnet": {"1": "running statistics"},
    "methods.layers.imagined_speech:deep_convnet": {"1": "running statistics"},
    "methods.layers.imagined_speech:fit_csp": {"filters": "weights"},
    "methods.layers.imagined_speech:max_norm": {"": "weights"},
    "methods.layers.prompt_guided_masks:prompt_cross_attention": {"": "features"},
    "methods.layers.prompt_guided_masks:PromptCrossAttention": {"": "features"},
    "methods.layers.prompt_guided_masks:PromptGuidedDecoderLayer": {"": "features"},
    "methods.losses.alignment.kto:linear_merge": {"": "weights"},
    "methods.losses.alignment.kto:slerp_merge": {"": "weights"},
    "methods.losses.alignment.kto:ties_merge": {"": "weights"},
    "methods.losses.contrastive.normface:class_prototypes": {"": "unit features"},
    "methods.quantizers.clipped_uniform:quantize": {"1": "weights"},
    "methods.quantizers.clipped_uniform:stochastic_quantize": {"1": "weights"},
    "methods.quantizers.clipped_uniform:aggregate": {"": "weights"},
    "methods.quantizers.clipped_uniform:fake_quantize": {"": "weights"},
    "methods.transforms.federated_mvr:mvr_momentum": {"": "gradients"},
    "methods.transforms.federated_mvr:mvr_directions": {"0": "gradients"},
    "methods.transforms.federated_mvr:storm": {"": "updates"},
    "methods.transforms.federated_mvr:client_update": {"0": "weights", "1": "gradients"},
    "methods.transforms.federated_mvr:quadratic_clients": {"0": "weights", "1": "gradients"},
    "methods.transforms.federated_mvr:adaptive_server_update": {"": "weights, and moments that came in as they did"},
    "methods.transforms.federated_mvr:init_federated": FEDADAM,
    "methods.transforms.federated_mvr:fedavg_round": STATE,
    "methods.transforms.federated_mvr:fedadam_round": STATE,
    "methods.transforms.federated_mvr:mime_round": STATE,
    "methods.transforms.federated_mvr:scaffold_round": STATE,
    "methods.transforms.federated_mvr:mvr_round": STATE,
}

BATCH: dict[str, tuple[str, ...]] = {
    "methods.layers.conceptual_contextual:bilstm_encode": ("x", "where"),
    "methods.layers.conceptual_contextual:entity_embedding": ("x", "where"),
    "methods.layers.imagined_speech:eegnet": ("x",),
    "methods.layers.imagined_speech:shallow_convnet": ("x",),
    "methods.layers.imagined_speech:deep_convnet": ("x",),
    "methods.layers.imagined_speech:max_norm": ("w",),
    "methods.losses.alignment.kto:linear_merge": ("trees", "weights"),
    "methods.quantizers.clipped_uniform:aggregate": ("values", "weights"),
    "methods.samplers.favicomp:decode": ("first_token",),
    "methods.samplers.favicomp:decode_bigram": ("first_token",),
    "methods.transforms.federated_mvr:mvr_momentum": ("grads", "previous_grads", "momentum"),
    "methods.transforms.federated_mvr:quadratic_clients": ("A", "b"),
    "methods.transforms.federated_mvr:adaptive_server_update": ("deltas", "weights"),
}
