"""GPTQ: weights rounded one input at a time, each error made good by the inputs that follow."""
