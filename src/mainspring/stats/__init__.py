"""Pure functions of arrays: intervals, sketches, drift distances and sequential tests."""
