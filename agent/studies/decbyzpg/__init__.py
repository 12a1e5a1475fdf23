"""The experiments of Jordan et al. (arXiv 2401.03489) with DecByzPG, figures beside the paper's."""
