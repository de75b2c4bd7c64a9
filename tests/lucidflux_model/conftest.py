"""One thread: several processes whose threads wait for each other by spinning take 50 times as long on two cores."""

import torch

torch.set_num_threads(1)
