"""What tests/losses/engine/test_triton.py runs in processes of their own."""
