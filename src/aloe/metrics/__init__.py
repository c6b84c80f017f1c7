"""Measures of attribution maps: functions of tensors that know no model."""
