"""What is every head and neuron worth? From weights, activations, reconstruction errors, ablation and gradients."""
