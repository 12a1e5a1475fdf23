"""From rows of models and samples to gradients."""
