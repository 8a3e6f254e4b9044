"""The conformance checks that do not apply to a function, each with its reason: the only place that excludes any.

`(call, check) -> reason`, where `call` is as in the goldens, "methods.<kind>.<name>:<function>", and `check` is one of
jit, vmap, grad, bfloat16, sharded, retrace, or "all". For example

    ("methods.samplers.top_h:top_h_mask", "grad"): "a mask has no gradient",
    ("methods.inference.turtlebench:parse_verdict", "all"): "parses text, not arrays",
"""

EXCLUDED: dict[tuple[str, str], str] = {
    ("methods.losses.contrastive.rcrl:return_segments", "grad"): "segments are numbered",
    ("methods.samplers.favicomp:decode_bigram", "grad"): "tokens have no gradient",
}
