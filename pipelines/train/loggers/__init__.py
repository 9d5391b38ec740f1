"""Where people look while heads train: TensorBoard, Weights & Biases, MLflow, and what other packages bring.

Nothing that a logger keeps is ever read back, and none can end a training.
"""
