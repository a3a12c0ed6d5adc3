"""Detection heads with deformable RoI pooling on real photographs."""
