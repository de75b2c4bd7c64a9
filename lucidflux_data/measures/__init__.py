"""What is measured of every image without a model: blur, flat regions, JPEG history, perceptual hashes,
fingerprints.
"""
