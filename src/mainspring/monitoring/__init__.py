"""What production tells: the prediction log, labels, monitors and alerts."""
