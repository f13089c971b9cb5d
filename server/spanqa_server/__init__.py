"""Running a real Triton from the pip package: launch, supervision and a clean stop."""
