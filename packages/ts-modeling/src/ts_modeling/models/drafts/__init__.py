"""What EAGLE3's draft heads share: configuration, frame and names; their attention differs."""
