"""The passes, one flat file each; `fhecompile.pipeline` turns pipeline texts into passes.

`BUILT_IN` names them in the order of the default pipelines without importing any of them. File
name, class name and pipeline name are one name: `fold_batchnorm` is `FoldBatchnorm` in
`passes/fold_batchnorm.py`.
"""

BUILT_IN = (
    "clean_graph",
    "fold_batchnorm",
    "fuse_polynomials",
    "merge_affine",
    "move_copies",
    "pack_branches",
    "match_embeddings",
    "batch_samples",
    "fit_functions",
    "fit_refreshes",
    "merge_refreshes",
    "choose_polynomials",
    "place_refreshes",
    "balance_quadratics",
    "lower_polynomials",
    "balance_products",
    "infer_ranges",
    "select_parameters",
    "select_refreshes",
    "assign_scales",
    "assign_levels",
    "assign_layouts",
    "predict_precision",
    "lower_affine",
    "build_slots",
    "limit_keys",
    "join_folds",
    "share_rotations",
    "schedule_operations",
    "emit_plan",
)

_GRAPH = (
    "clean_graph,fold_batchnorm,fuse_polynomials,merge_affine,move_copies,clean_graph,pack_branches,"
    "match_embeddings,batch_samples,infer_ranges,"
)
_POLYNOMIALS = "balance_quadratics,lower_polynomials,balance_products,infer_ranges,"
_SLOTS = (
    "assign_scales,assign_levels,assign_layouts,predict_precision,"
    "lower_affine,build_slots,limit_keys,join_folds,share_rotations,schedule_operations,emit_plan"
)

# For networks that fit the primes a secure ring has.
DEFAULT_PIPELINE = f"{_GRAPH}fit_functions,{_POLYNOMIALS}select_parameters,{_SLOTS}"

# For deeper ones: values get new primes on the way, and functions are evaluated as they do.
REFRESHED_PIPELINE = (
    f"{_GRAPH}fit_refreshes,merge_refreshes,choose_polynomials,{_POLYNOMIALS}place_refreshes,"
    f"select_refreshes,{_SLOTS}"
)
