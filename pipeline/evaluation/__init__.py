"""What pretrained encoders are worth: frozen-feature probes against labels."""
