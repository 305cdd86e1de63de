"""What a run will take, before it begins: probes of the real stages, a model of the whole run."""
