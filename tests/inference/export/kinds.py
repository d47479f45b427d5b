"""Kinds of text models, by what differs in their feed-forward layers."""

KINDS = {
    "mixture": {},
    "shared experts behind a dense layer": {"num_shared_experts": 1, "num_dense_layers": 1},
    "sigmoid scores": {"router_score": "sigmoid", "routed_scaling_factor": 2.0},
    "dense": {"num_experts": 0, "num_experts_per_tok": 0, "moe_intermediate_size": 0},
}
