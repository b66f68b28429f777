"""The "Loss forecast" tab of TensorBoard. Needs no torch."""
