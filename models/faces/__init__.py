"""Data, losses and evaluation of face networks.

=====================  ======================================================================
`pair_files`           verification pairs: InsightFace `.bin` files, pair lists, folders
`synthetic`            seeded images of people who do not exist
`evaluation`           10-fold accuracy, EER, TAR at FAR, rank-1 identification
`losses`               ArcFace and the jigsaw task; the only one that needs torch
=====================  ======================================================================

`models.train_faces` trains CryptoFaceNet with these. Images are uint8, height x width x 3, RGB, and
aligned by `runtime.face_alignment`, as a client's are.

`cryptofacenet4_synthetic.onnx` (3 x 64 x 64 to 256) was trained in 6.5 minutes on one core by

    python -m models.train_faces --data synthetic --size 64 --people 400 --images 8 --batch 32
        --rate 0.00625 --scale 32 --margin 0.2 --epochs 5 --milestones 4 --out DIR

and verifies unseen people of three other seeds with 97.6 to 99.3 % (1,200 pairs each, ten folds).
It knows drawings, not faces: it is for tests of a trained network of this shape.
"""
