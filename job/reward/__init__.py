"""What actions are rewarded for: named terms, and a learned judge of masks."""
