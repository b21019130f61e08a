"""The ONNX frontend: `import_model` turns an ONNX file into the tensor graph."""

from fhecompile.frontend.import_onnx import ImportedModel, import_model

__all__ = ["ImportedModel", "import_model"]
