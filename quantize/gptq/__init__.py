"""GPTQ: weights are rounded one input at a time, and the inputs that follow compensate for each error."""
