"""Sa2VA checkpoints of InternVL and Qwen-VL kind behind the segmenter protocol.

Two paths to the same masks: `generate` calls the checkpoint's own `predict_forward`, the reference; `shared`
calls the checkpoint's own modules, but the encoders and the language model's prefix once an image.
"""
