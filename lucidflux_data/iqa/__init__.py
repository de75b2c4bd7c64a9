"""Quality metrics: NIQE and CLIP-IQA of our own, pyiqa's by name, PSNR and SSIM."""
