"""The passes, one flat file each; `fhecompile.pipeline` turns pipeline texts into passes.

`BUILT_IN` names them in the order of the default pipeline without importing any of them. File
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
    "balance_quadratics",
    "lower_polynomials",
    "balance_products",
    "infer_ranges",
    "select_parameters",
    "assign_scales",
    "assign_levels",
    "assign_layouts",
    "lower_affine",
    "build_slots",
    "limit_keys",
    "join_folds",
    "share_rotations",
    "schedule_operations",
    "emit_plan",
)

DEFAULT_PIPELINE = (
    "clean_graph,fold_batchnorm,fuse_polynomials,merge_affine,move_copies,clean_graph,pack_branches,"
    "match_embeddings,batch_samples,infer_ranges,fit_functions,balance_quadratics,lower_polynomials,"
    "balance_products,infer_ranges,"
    "select_parameters,assign_scales,assign_levels,assign_layouts,"
    "lower_affine,build_slots,limit_keys,join_folds,share_rotations,schedule_operations,emit_plan"
)
