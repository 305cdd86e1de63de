"""Ray and the machine: sessions, placement, devices, nodes that come and go."""
