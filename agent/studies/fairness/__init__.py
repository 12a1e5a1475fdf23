"""The experiments of Xu et al. (NeurIPS 2021) with fair rewards, figures beside the paper's."""
